// From a picture to what a network takes: the same arithmetic as Pillow's and the library's, so that
// the numbers on the page are those of Python.

/** Side of the pictures that the networks were trained on. */
export const SIDE = 28;

/**
 * A grey picture: `data` has width * height values from 0 (black) to 255 (white).
 * @typedef {{width: number, height: number, data: Uint8Array}} Grey
 */

/** Reads an image file. Throws an Error that says what is wrong. */
export async function readFile(blob) {
  let bitmap;
  try {
    // No colour management: Pillow has none. Photos are turned upright, as in training.
    bitmap = await createImageBitmap(blob, {
      colorSpaceConversion: "none",
      imageOrientation: "from-image",
    });
  } catch {
    throw new Error("Your browser cannot read this file as a picture. PNG and JPEG always work.");
  }
  const { width, height } = bitmap;
  if (width * height > 50e6) {
    throw new Error(`This picture is too large: ${width} x ${height} pixels. Up to 50 million work.`);
  }
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "black"; // behind transparent parts
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return greyOf(context.getImageData(0, 0, width, height));
}

/** Converts colours to grey with Pillow's integer weights (ITU-R 601-2). */
export function greyOf({ width, height, data: rgba }) {
  const data = new Uint8Array(width * height);
  for (let i = 0, j = 0; i < data.length; i++, j += 4) {
    data[i] = (rgba[j] * 19595 + rgba[j + 1] * 38470 + rgba[j + 2] * 7471 + 0x8000) >> 16;
  }
  return { width, height, data };
}

/** Swaps dark and light. */
export function inverted({ width, height, data }) {
  return { width, height, data: data.map((value) => 255 - value) };
}

/** Puts a picture in the middle of a black square. */
export function squared({ width, height, data }) {
  const side = Math.max(width, height);
  const left = (side - width) >> 1;
  const top = (side - height) >> 1;
  const square = new Uint8Array(side * side);
  for (let y = 0; y < height; y++) {
    square.set(data.subarray(y * width, (y + 1) * width), (top + y) * side + left);
  }
  return { width: side, height: side, data: square };
}

/** Reduces a square picture to SIDE x SIDE as Pillow's box filter does. */
export function reduced({ width, height, data }) {
  const rows = boxFiltered(data, width, height, SIDE); // [height, SIDE]
  const columns = boxFiltered(transposed(rows, SIDE, height), height, SIDE, SIDE);
  return { width: SIDE, height: SIDE, data: transposed(columns, SIDE, SIDE) };
}

/** Resizes each row of a [height, width] array; Pillow's fixed-point numbers of 22 bits. */
function boxFiltered(data, width, height, size) {
  if (width === size) return data;
  const scale = width / size;
  const filterScale = Math.max(scale, 1);
  const result = new Uint8Array(size * height);
  for (let x = 0; x < size; x++) {
    const centre = (x + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - 0.5 * filterScale + 0.5), 0);
    const last = Math.min(Math.trunc(centre + 0.5 * filterScale + 0.5), width);
    const inside = [];
    for (let i = first; i < last; i++) {
      const at = (i - centre + 0.5) / filterScale;
      if (at > -0.5 && at <= 0.5) inside.push(i);
    }
    const weight = Math.trunc(0.5 + (1 / inside.length) * 2 ** 22);
    for (let y = 0; y < height; y++) {
      let sum = 2 ** 21;
      for (const i of inside) sum += data[y * width + i] * weight;
      result[y * size + x] = Math.min(Math.floor(sum / 2 ** 22), 255);
    }
  }
  return result;
}

function transposed(data, width, height) {
  const result = new Uint8Array(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) result[x * height + y] = data[y * width + x];
  }
  return result;
}

/** Enlarges a SIDE x SIDE picture as in training and normalises it to [-1, 1]: float32. */
export function normalised({ data }, size) {
  const fractions = Float32Array.from(resized(data, SIDE, SIDE, size, size), (x) => x / 255);
  return fractions.map((x) => (x - 0.5) / 0.5);
}

/** Interpolates linearly between pixel centres, clipped at the border: PyTorch's and JAX's rule. */
export function resized(data, width, height, newWidth, newHeight) {
  const [x0, x1, dx] = positions(width, newWidth);
  const [y0, y1, dy] = positions(height, newHeight);
  const result = new Float32Array(newWidth * newHeight);
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      const mix = (column) =>
        data[y0[y] * width + column] * (1 - dy[y]) + data[y1[y] * width + column] * dy[y];
      result[y * newWidth + x] = mix(x0[x]) * (1 - dx[x]) + mix(x1[x]) * dx[x];
    }
  }
  return result;
}

function positions(old, size) {
  const low = [];
  const high = [];
  const share = [];
  for (let i = 0; i < size; i++) {
    const at = Math.max(((i + 0.5) * old) / size - 0.5, 0);
    low.push(Math.min(Math.trunc(at), old - 1));
    high.push(Math.min(low[i] + 1, old - 1));
    share.push(at - low[i]);
  }
  return [low, high, share];
}
