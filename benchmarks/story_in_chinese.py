"""Translates the tables of docs/story.md for docs/story.zh.md, cell by cell."""

from __future__ import annotations

import re

# Patterns of whole cells. Numbers and names are not translated.
_PATTERNS = {
    "network": "网络",
    "year": "年份",
    "paper": "论文",
    "pixels": "像素",
    "ratio": "比值",
    "deep": "深度",
    "layers in all": "总层数",
    "stated by": "出处",
    "no weights": "无权重",
    "modules": "模块",
    "channels out: naive": "输出通道：朴素",
    "with 1x1": "带 1x1",
    "naive / with 1x1": "朴素 / 带 1x1",
    "parameters: naive": "参数量：朴素",
    "parameters": "参数量",
    "parameters, M": "参数量, M",
    "MACs, M: naive": "MACs, M：朴素",
    "3a, 3b, pool, 4a to 5b": "3a, 3b, 池化, 4a 到 5b",
    "returns": "输出",
    "moved, M": "搬运量, M",
    "GoogLeNet, BatchNorm for LRN": "GoogLeNet，LRN 换成 BatchNorm",
    "its 5x5 as two 3x3, each as wide": "5x5 换成两个 3x3，宽度都相同",
    "the same, widening evenly": "同上，逐级均匀加宽",
    "its 5x5 as one 3x3: TF-slim, torchvision": "5x5 换成一个 3x3：TF-slim、torchvision",
    "BN-Inception, first layer whole": "BN-Inception，第一层不拆",
    "BN-Inception, first layer taken apart": "BN-Inception，第一层拆开",
    "that layer: 7x7/2 on the image": "这一层：图像上的 7x7/2",
    "depthwise 7x7/2 to 24, then 1x1": "深度卷积 7x7/2 到 24 通道，再接 1x1",
    r"(\d+x\d+) on (\d+x\d+x\d+)": r"\2 上的 \1",
    "two (.+)": r"两个 \1",
    "three 3x3": "三个 3x3",
    "(1x[73]), then ([73]x1)": r"\1，再接 \2",
    "1x3 beside 3x1, twice the channels": "1x3 与 3x1 并列，通道数加倍",
    "7x7/2 to 64 on the image": "图像上的 7x7/2，到 64 通道",
    "V3's 3x3/2, 3x3, 3x3, to 64 as well": "V3 的 3x3/2、3x3、3x3，也到 64 通道",
    "narrowest map, numbers": "最窄特征图的数值个数",
    "3x3 to 640, then pool": "3x3 到 640 通道，再池化",
    "pool, then 3x3 to 640": "先池化，再用 3x3 到 640 通道",
    "3x3/2 to 320 beside pool": "3x3/2 到 320 通道，与池化并列",
    "classes": "类别数",
    "smoothing": "平滑",
    "best probability of the label": "标签的最佳概率",
    "of each other class": "其余每一类的",
    "best logit gap": "最佳 logit 差",
    "lowest loss": "最低损失",
    "rule": "规则",
    r"gradient (.+): step (\d+)": r"梯度 \1：第 \2 步",
    "SGD": "SGD",
    "(TensorFlow|PyTorch), epsilon (.+)": r"\1，epsilon \2",
    "part": "部分",
    "(V2, n = .|V.): modules": r"\1：模块数",
    "first layers": "最前面的层",
    r"(\d+x\d+) modules": r"\1 模块",
    "reduction": "缩减",
    "second reduction": "第二次缩减",
    "classifier": "分类器",
    "all": "合计",
    "all, of (`.+`)": r"合计，相对于 \1",
    r"V4's (\w+) on (.+)": r"V4 的 \1，在 \2 上",
    "(`.+`) on the same map": r"\1，在同样的特征图上",
    "its last 1x1 alone": "仅其最后的 1x1",
    "(Inception-ResNet-v.), the paper's figures": r"\1，按论文插图",
    "(Inception-ResNet-v.), the published code": r"\1，按公开代码",
    r"1x1, then 3x3 on (\d+) segments?": r"1x1，再在 \1 段上做 3x3",
    "depthwise 3x3, then 1x1: the code": "深度卷积 3x3，再接 1x1：代码",
    "V3's module (.+)": r"V3 的模块 \1",
    "BatchNorms": "BatchNorm 个数",
    r"aligned, (\d+p?)": r"对齐版，\1",
    r"aligned, 65, output stride (\d+)": r"对齐版，65，输出步长 \1",
    "depthwise (.+) on (.+)": r"\2 上的深度卷积 \1",
    "3x3, 1x11, 11x1, identity": "3x3、1x11、11x1、恒等",
    "block with depthwise 7x7": "带深度卷积 7x7 的块",
    "InceptionNeXt's block": "InceptionNeXt 的块",
    "tiny with depthwise 7x7": "带深度卷积 7x7 的 tiny",
    "PyTorch twin, ms": "PyTorch 孪生实现, ms",
    "TPU v5e, forward, ms": "TPU v5e，前向, ms",
    "training step, ms": "训练步, ms",
    "of forward": "是前向的几倍",
    "where": "位置",
    "printed": "印的是",
    "built": "搭出来是",
    "BN-Inception, figure 5: channels of 4c, 4d, 4e": "BN-Inception，图 5：4c、4d、4e 的通道数",
    "BN-Inception, section 4.2: parameters": "BN-Inception，4.2 节：参数量",
    "(.+) M of figure 5's filters": r"按图 5 的滤波器为 \1 M",
    "Inception V4, figure 3, last convolution": "Inception V4，图 3，最后一个卷积",
    "no stride": "没有步长",
    "a map of (.+) beside the pool's (.+); with stride 2 both fit": (
        r"特征图为 \1，旁边池化的是 \2；步长为 2 时两者吻合"
    ),
    "(Inception-ResNet-v2), figure (.+), last 1x1": r"\1，图 \2，最后的 1x1",
    r"(\d+) channels": r"\1 通道",
    "(.+), which (Reduction-.) returns": r"\1，即 \2 的输出",
    "InceptionNeXt, table 3, atto: channels of stages 2 and 3": (
        "InceptionNeXt，表 3，atto：第 2、3 阶段的通道数"
    ),
    "90, 180; (.+) M parameters": r"90、180；\1 M 参数",
    "(.+) M with these, (.+) M with 80, 160": r"照此为 \1 M，用 80、160 则为 \2 M",
}
# Cells that stay as they are: numbers, names, links, units.
_NAMES = re.compile(
    r"[\W\d]*|.*MACs.*|top-1, %|`.+`(, ms)?|\[.+\]\(.+\)|---|onnxruntime, ms|torchvision"
    r"|(Caffe|Cadene|timm), `.+`|Inception V.|Inception-ResNet-v.|InceptionNeXt tiny|Xception"
    r"|[\dxabcde, ]+|[\d.]+ M"
)


def translated(table: str) -> str:
    """Returns the Chinese translation of a Markdown table of docs/story.md; numbers are unchanged.

    Raises:
        ValueError: if this file has no translation for a cell.
    """
    lines = (line.removeprefix("| ").removesuffix(" |") for line in table.splitlines())
    return "\n".join("| " + " | ".join(map(_cell, line.split(" | "))) + " |" for line in lines)


def _cell(text: str) -> str:
    for pattern, chinese in _PATTERNS.items():
        if found := re.fullmatch(pattern, text):
            return found.expand(chinese)
    if not _NAMES.fullmatch(text):
        raise ValueError(f"benchmarks/story_in_chinese.py does not translate {text!r}")
    return text
