"""Tests that drawings show what the code computes, and that they are legible."""

import dataclasses
import functools
import itertools
import threading
from pathlib import Path
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import matplotlib
import pytest
from flax import nnx
from PIL import ImageFont

import inception_jax as ij
from inception_jax.create import abstract_model
from inception_jax.drawing import draw, labels, modules, overview, series_parallel, subgraphs
from inception_jax.drawing.canvas import Box, Drawing, Line, Text
from inception_jax.drawing.figures import drawing
from inception_jax.drawing.traced_network import Network, network_of

# One network or tag of every class, and more where a tag has other modules.
NETWORKS = [
    "bn_inception.slim_in1k",
    "inception_next_atto",
    "inception_resnet_v1",
    "inception_v1.bvlc_in1k",
    "inception_v2.blog",
    "inception_v3.fid",
    "inception_v4",
    "xception",
    "xception41p",
    "xception41",
]
OTHERS = sorted({*ij.list_models(), *ij.list_models(tags=True)} - set(NETWORKS))


def part_of(network, module):
    network = network if isinstance(network, Network) else network_of(network, None)
    return subgraphs.find(network.graph, module)


def outline(network, module):
    """Returns the drawing of a module as nested lists.

    A string stands for a box: the first line of its text, and the operations that the box includes,
    such as "1×1 conv, 192 BN ReLU". A tuple contains parallel branches. A dictionary maps a number
    of repetitions to the repeated part.

    Args:
        network: name of the network, or a model, or a traced `Network`.
        module: name of a stage of the network, or path of a module, such as "Mixed_6b".
    """
    part = part_of(network, module)
    return _outline(series_parallel.arrange(part), part)


def _outline(series, part):
    found = []
    for item in series:
        if isinstance(item, int):
            node = part.nodes[item]
            found.append(
                " ".join([labels.first_line(node), *(node.after if node.kind != "norm" else ())])
            )
        elif isinstance(item, series_parallel.Parallel):
            found.append(tuple(_outline(branch, part) for branch in item.branches))
        else:
            found.append({item.repeat.count: _outline(item.series, part)})
    return found


def test_branches_stand_in_the_order_of_the_code():
    conv = "BN ReLU"
    assert outline("inception_v3", "Mixed_6b") == [
        (
            [f"1×1 conv, 192 {conv}"],
            [f"1×1 conv, 128 {conv}", f"1×7 conv, 128 {conv}", f"7×1 conv, 192 {conv}"],
            [
                f"1×1 conv, 128 {conv}",
                f"7×1 conv, 128 {conv}",
                f"1×7 conv, 128 {conv}",
                f"7×1 conv, 128 {conv}",
                f"1×7 conv, 192 {conv}",
            ],
            ["3×3 avg pool", f"1×1 conv, 192 {conv}"],
        ),
        "concat, 768",
    ]


def test_branches_divide_again():
    inner = (["1×3 conv, 384 BN ReLU"], ["3×1 conv, 384 BN ReLU"])
    branches, concat = outline("inception_v3", "Mixed_7b")
    assert branches[1] == ["1×1 conv, 384 BN ReLU", inner]
    assert branches[2] == ["1×1 conv, 448 BN ReLU", "3×3 conv, 384 BN ReLU", inner]
    assert concat == "concat, 2048"


def test_boxes_are_named_as_in_the_code():
    part = part_of("inception_v3", "Mixed_6a")
    details = [
        labels.second_line(n, {"conv": ("BN", "ReLU")}, part.path) for n in part.nodes.values()
    ]
    assert details == [
        "branch3x3 · valid",
        "branch3x3dbl_1",
        "branch3x3dbl_2",
        "branch3x3dbl_3 · valid",
        "valid",
        "",
    ]


@pytest.fixture(scope="module")
def short():
    """Returns a traced Inception-ResNet-v2 with fewer blocks."""
    return network_of(abstract_model("inception_resnet_v2", aux_heads=True, blocks=(1, 3, 3)), None)


def test_residual_blocks_are_drawn_once(short):
    block = [
        (
            [],
            [
                (
                    ["1×1 conv, 192 BN ReLU"],
                    ["1×1 conv, 128 BN ReLU", "1×7 conv, 160 BN ReLU", "7×1 conv, 192 BN ReLU"],
                ),
                "concat, 384",
                "1×1 conv, 1088",
                "× 0.10",
            ],
        ),
        "+",
        "ReLU",
    ]
    assert outline(short, "block17") == [{3: block}]
    assert outline(short, "block17.1") == block
    last = outline(short, "block8.2")
    assert last[-1] == "+"  # the last block has no ReLU, and a scale of one is not drawn
    assert last[0][1][-1] == "1×1 conv, 2080"
    assert outline(short, "block8")[1] == {1: last}


def test_a_sum_has_the_input_and_the_branch(short):
    part = part_of(short, "block17.0")
    total = next(node for node in part.nodes.values() if node.kind == "add")
    assert total.inputs[0] == part.source
    assert part.nodes[total.inputs[1]].text == "0.10000000149011612"


def test_depthwise_branches_and_identity():
    mixer = (["identity, 10"], *([f"{k} depthwise, 10"] for k in ("3×3", "1×9", "9×1")))
    expected = [
        (
            [],
            [
                "split 10 | 10 | 10 | 10",
                mixer,
                "concat, 40",
                "batch norm",
                "1×1 conv, 160 GELU",
                "1×1 conv, 40",
                "× gamma",
            ],
        ),
        "+",
    ]
    assert outline("inception_next_atto", "stages.0.blocks.0") == expected
    stage = outline("inception_next_atto", "stage2")
    assert stage[:2] == ["batch norm", "2×2 conv / 2, 80"]
    assert list(stage[2]) == [2]


def test_relu_before_convolutions_is_drawn():
    shortcut, main = outline("xception", "block2")[0]
    assert shortcut == ["1×1 conv / 2, 128 BN"]
    sepconv = ["3×3 depthwise, {}", "1×1 conv, 128 BN"]
    first, second = ([text.format(c) for text in sepconv] for c in (64, 128))
    assert main == [*first, "ReLU", *second, "3×3 max pool / 2"]
    assert outline("xception", "block3")[0][1][0] == "ReLU"


def test_shortcut_begins_after_the_normalisation():
    norm, branches, plus = outline("xception41p", "entry_flow.0")
    assert norm == "batch norm, ReLU"
    assert branches[0] == ["1×1 conv / 2, 128"]
    assert branches[1][2] == "batch norm, ReLU"
    assert plus == "+"


def test_readings_are_drawn():
    assert outline("inception_v1.bvlc_in1k", "inception3a")[0][2][1] == "5×5 conv, 32 ReLU"
    assert outline("inception_v1", "inception3a")[0][2][1] == "3×3 conv, 32 BN ReLU"
    assert outline("inception_v3.fid", "Mixed_7c")[0][3][0] == "3×3 max pool"
    pools = [
        next(n for n in part_of(name, "Mixed_5b").nodes.values() if n.kind == "avg_pool")
        for name in ("inception_v3", "inception_v3.tv_in1k")
    ]
    assert [pool.counts_padding for pool in pools] == [False, True]


def rows_of(name):
    network = network_of(name, None)
    return overview.rows(network.graph, network.aux_names)


def test_stages_of_a_network():
    rows = rows_of("inception_v1.bvlc_in1k")
    stages = [row.name or row.text for row in rows]
    assert stages[:7] == [
        "images",
        "conv1",
        "maxpool1",
        "local response norm",
        "conv2",
        "conv3",
        "local response norm",
    ]
    assert stages[-3:] == ["global avg pool", "dropout, 0.4", "fc"]
    assert {row.name: row.aux.name for row in rows if row.aux} == {
        "inception4a": "aux1",
        "inception4d": "aux2",
    }
    assert [row.shape for row in rows if row.name == "conv3"] == [(56, 56, 192)]


def test_equal_stages_are_one_box():
    rows = {row.name: row.text for row in rows_of("xception")}
    assert rows["block5 – block12"] == "8 × MiddleBlock"
    assert "block3_sepconv1_act" not in rows  # a side output, which is not drawn
    rows = {row.name: row.text for row in rows_of("inception_resnet_v1")}
    assert rows["block17"] == "10 × Block17"
    assert rows["block8.5"] == "Block8 without × 0.20 and ReLU"


def test_images_may_be_rescaled_first():
    rows = rows_of("inception_v3.tv_in1k")
    assert [row.text for row in rows[:2]] == ["images", "scale and shift"]
    assert rows_of("inception_v3")[1].name == "Conv2d_1a_3x3"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inception_v3", "Mixed_5b Mixed_6a Mixed_6b Mixed_7a Mixed_7b AuxLogits"),
        ("inception_v3.fid", "Mixed_5b Mixed_6a Mixed_6b Mixed_7a Mixed_7b Mixed_7c AuxLogits"),
        ("inception_resnet_v1", "block35.0 Mixed_6a block17.0 Mixed_7a block8.0 block8.5"),
        ("xception", "block2 block3 block5 block13"),
        ("inception_next_atto", "stem stages.0.blocks.0 stages.1.downsample head"),
    ],
)
def test_one_module_of_each_kind(name, expected):
    assert modules(name) == expected.split()


def test_modules_of_every_width():
    found = modules("inception_v3", widths=True)
    assert set(modules("inception_v3")) < set(found)
    # Mixed_6c and Mixed_6d have equal widths.
    assert [name for name in found if name.startswith("Mixed_6")] == [
        "Mixed_6a",
        "Mixed_6b",
        "Mixed_6c",
        "Mixed_6e",
    ]


@pytest.mark.parametrize(
    "name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_drawings_can_be_read(name):
    network = network_of(name, None)
    whole = drawing(network, None)
    check(whole)
    aux = sum(network.parameters(head) for head in network.aux_names)
    assert network.parameters("") - aux == ij.model_info(name).num_params
    chains = [stage.name for stage in subgraphs.stages(network.graph) if stage.repeats]
    for module in [*modules(name), *chains]:
        picture = drawing(network, module)
        check(picture)
        nodes = part_of(name, module).nodes.values()
        edges = sum(len(set(node.inputs)) for node in nodes) + 1  # and one to the output
        assert len([line for line in shapes(picture, Line) if line.arrow]) == edges
        assert not any(node.kind in ("step", "bias", "other", "slice") for node in nodes)
    for module in (None, *modules(name)):
        root = ElementTree.fromstring(draw(name, module))
        assert root.attrib["viewBox"].split()[2:] == [root.attrib["width"], root.attrib["height"]]


def shapes(picture, kind):
    return [shape for shape in picture.shapes if isinstance(shape, kind)]


def check(picture):
    """Asserts that nothing overlaps or leaves the drawing, and that text fits and is legible.

    `picture` is a `Drawing`, whose shapes have positions and sizes.
    """
    boxes = [box for box in shapes(picture, Box) if not box.frame]
    for one, other in itertools.combinations(boxes, 2):
        assert not overlap(extent(one), extent(other)), (one, other)
    texts = [*shapes(picture, Text), *(text for box in shapes(picture, Box) for text in box.texts)]
    for text in texts:
        assert text.size >= 11
        assert overlap(extent(text), (0, 0, picture.width, picture.height))
        assert real_width(text) <= text.width
    for box in shapes(picture, Box):
        assert within(extent(box), (0, 0, picture.width, picture.height))
        assert all(within(extent(text), extent(box)) for text in box.texts)
    pieces = [pair for line in shapes(picture, Line) for pair in itertools.pairwise(line.points)]
    for start, end in pieces:
        assert start[0] == end[0] or start[1] == end[1]
        for thing in [*boxes, *texts]:
            assert not overlap(shrunk(span(start, end)), extent(thing)), (start, end, thing)
    for one, other in itertools.combinations(pieces, 2):
        assert not cross(one, other), (one, other)


def extent(thing):
    if isinstance(thing, Box):
        return thing.x, thing.y, thing.x + thing.width, thing.y + thing.height
    left = thing.x - {"start": 0, "middle": 0.5, "end": 1}[thing.anchor] * thing.width
    return left, thing.y - 0.75 * thing.size, left + thing.width, thing.y + 0.2 * thing.size


def span(start, end):
    xs, ys = sorted((start[0], end[0])), sorted((start[1], end[1]))
    return xs[0], ys[0], xs[1], ys[1]


def shrunk(piece):
    """Returns a line's rectangle without the ends, which touch the boxes that the line connects.

    `piece` and the result are (left, top, right, bottom).
    """
    left, top, right, bottom = piece
    return (left, top + 1, right, bottom - 1) if left == right else (left + 1, top, right - 1, top)


def overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def within(one, other):
    return one[0] >= other[0] and one[1] >= other[1] and one[2] <= other[2] and one[3] <= other[3]


def cross(one, other):
    if (one[0][0] == one[1][0]) == (other[0][0] == other[1][0]):
        return False
    a, b = shrunk(span(*one)), shrunk(span(*other))
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def real_width(text):
    """Returns the width of a text line in DejaVu Sans, which is wider than most readers' fonts."""
    return _font(text.bold).getlength(text.text) * text.size / 100


@functools.cache
def _font(bold):
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    return ImageFont.truetype(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf", 100)


def test_what_cannot_be_read_is_noticed():
    box = Box(10, 10, 60, 30, "conv", (Text(40, 28, "1×1"),))
    good = Drawing(200, 100, "", "", (box, dataclasses.replace(box, x=110, texts=())))
    check(good)
    line = Line(((40, 60), (160, 60)))
    for bad in (
        [dataclasses.replace(box, x=60)],  # overlaps the other box
        [dataclasses.replace(box, x=-5)],
        [Text(40, 80, "small", 10)],
        [dataclasses.replace(box, y=60, texts=(Text(40, 80, "longer than its box"),))],
        [Line(((0, 25), (100, 25)))],  # through the box
        [Line(((0, 60), (100, 70)))],
        [line, Line(((80, 50), (80, 70)))],
        [line, Text(80, 64, "text")],
    ):
        with pytest.raises(AssertionError):
            check(dataclasses.replace(good, shapes=(*good.shapes, *bad)))


def test_unknown_modules_are_named_with_near_ones():
    with pytest.raises(ValueError, match=r"no module 'Mixed_6z' to draw; did you mean Mixed_6\w"):
        draw("inception_v3", "Mixed_6z")
    with pytest.raises(ValueError, match="its stages are conv1, maxpool1, "):
        draw("inception_v1", "?")
    with pytest.raises(ValueError, match="no module 'AuxLogits'"):
        draw(abstract_model("inception_v3", aux_heads=False), "AuxLogits")  # built without it
    with pytest.raises(ij.UnknownModelError):
        draw("inception_v9")


def test_sizes_that_do_not_do():
    with pytest.raises(ValueError, match="at least 75x75"):
        draw("inception_v3", input_size=74)
    model = abstract_model("inception_v1")
    model.spec = None  # as if the class had been called directly
    with pytest.raises(ValueError, match="say input_size"):
        draw(model)
    assert "20×32×256" in draw(model, "inception3a", input_size=(160, 256))


def test_auxiliary_classifiers_of_other_sizes():
    assert outline("inception_v3", "AuxLogits")[0] == "5×5 avg pool / 3"
    network = network_of("inception_v3", 200)
    texts = [
        labels.first_line(n) for n in subgraphs.find(network.graph, "AuxLogits").nodes.values()
    ]
    assert texts[2] == "zero padding to 5×5"
    assert outline("inception_v1", "aux1") == [
        "adaptive avg pool to 4×4",
        "1×1 conv, 128 BN ReLU",
        "linear, 1024 ReLU",
        "dropout, 0.7",
        "linear, 1000",
    ]


def test_built_networks():
    model = abstract_model("inception_next_atto", width_multiplier=0.5, dtype=jnp.bfloat16)
    model.train()
    before = jax.tree.structure(nnx.split(model))
    block = outline(model, "stages.0.blocks.0")[0][1]
    assert block[3:5] == ["batch norm", "1×1 conv, 80 GELU"]
    assert jax.tree.structure(nnx.split(model)) == before
    assert {type(module).__module__ for _, module in nnx.iter_modules(model.stem)} == {
        "inception_jax.models.inception_next",
        "inception_jax.nn.layers",
        "inception_jax.nn.norms",
    }
    assert not model.stem.norm.use_running_average
    model.eval()
    folded = nnx.eval_shape(lambda model: ij.fold(model), model)
    part = subgraphs.find(network_of(folded, 224).graph, "stages.0.blocks.0")
    assert not any(node.kind == "norm" for node in part.nodes.values())


def test_the_same_in_every_thread():
    found = {}

    def work(place):
        model = abstract_model("inception_next_atto")
        found[place] = draw(model), draw(model, "stage2")

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    name = "inception_next_atto"
    assert found[0] == found[1] == (draw(name), draw(name, "stage2"))
