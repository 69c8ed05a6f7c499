// Draws maps and heat on canvases.
import { resized } from "./pixels.js";

// From dark violet over red and orange to yellow, in perceptually even steps; `inception-jax
// predict --explain` draws in the same colours.
const STOPS = [
  [13, 8, 135],
  [156, 23, 158],
  [237, 121, 83],
  [240, 249, 33],
];

function colour(level) {
  const at = Math.min(Math.max(level, 0), 1) * (STOPS.length - 1);
  const i = Math.min(Math.trunc(at), STOPS.length - 2);
  return STOPS[i].map((from, k) => from + (STOPS[i + 1][k] - from) * (at - i));
}

/** Draws a grey picture, a canvas pixel for each of its own. */
export function drawGrey(canvas, { width, height, data }) {
  paint(canvas, width, height, (x, y) => Array(3).fill(data[y * width + x]));
}

/** Draws a picture under the colours of the heat of one class. */
export function drawHeat(canvas, picture, heat, chosen, side) {
  const { width, height, channels } = heat;
  const one = Float32Array.from({ length: width * height }, (_, i) => heat.data[i * channels + chosen]);
  const levels = resized(one, width, height, side, side);
  const largest = levels.reduce((a, b) => Math.max(a, b), 0);
  const grey = resized(picture.data, picture.width, picture.height, side, side);
  paint(canvas, side, side, (x, y) => {
    const level = largest > 0 ? levels[y * side + x] / largest : 0;
    const share = 0.6 * Math.sqrt(level);
    return colour(level).map((value) => grey[y * side + x] * (1 - share) + value * share);
  });
  return largest > 0;
}

/** Draws every channel of a map beside the others, in rows. */
export function drawMap(canvas, { width, height, channels, data }) {
  const columns = Math.max(1, Math.min(channels, Math.ceil(Math.sqrt(channels * 2))));
  const rows = Math.ceil(channels / columns);
  // Small maps are enlarged: else their frames would be as wide as they are.
  const zoom = Math.max(1, Math.round(24 / width));
  const [tileWidth, tileHeight] = [width * zoom + 1, height * zoom + 1];
  let low = 0;
  let high = 1e-12;
  for (const value of data) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  // Smoothed where the page shows it smaller than it is, so that no line is lost.
  canvas.style.imageRendering = columns * tileWidth > 300 ? "auto" : "pixelated";
  paint(canvas, columns * tileWidth - 1, rows * tileHeight - 1, (x, y) => {
    const channel = Math.trunc(y / tileHeight) * columns + Math.trunc(x / tileWidth);
    const [inX, inY] = [x % tileWidth, y % tileHeight];
    const frame = inX === tileWidth - 1 || inY === tileHeight - 1;
    if (frame || channel >= channels) return [255, 255, 255];
    const pixel = Math.trunc(inY / zoom) * width + Math.trunc(inX / zoom);
    return colour((data[pixel * channels + channel] - low) / (high - low));
  });
}

function paint(canvas, width, height, colourAt) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i += 4) {
      image.data.set(colourAt(x, y), i); // rounded and clipped
      image.data[i + 3] = 255;
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
