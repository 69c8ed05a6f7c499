// The drawing board: ten by ten canvas pixels for each pixel that the network gets.
import { SIDE, greyOf, reduced } from "./pixels.js";

const ZOOM = 10;
const STEP = 10; // canvas pixels that an arrow key moves the pen

export class Board {
  /** @param canvas to draw on; @param changed called after each stroke. */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.brush = 24;
    this.grey = 220;
    this.pen = { x: 140, y: 140, down: false, byKeys: false };
    canvas.width = canvas.height = SIDE * ZOOM;
    // What was drawn; the canvas shows it with the pen of the keyboard on it.
    this.paper = document.createElement("canvas");
    this.paper.width = this.paper.height = SIDE * ZOOM;
    this.context = this.paper.getContext("2d", { willReadFrequently: true });
    this.clear();
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, () => (this.last = null));
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => {
      this.pen.byKeys = this.pen.down = false;
      this.show();
    });
  }

  /** Paints everything black. */
  clear() {
    this.context.fillStyle = "black";
    this.context.fillRect(0, 0, SIDE * ZOOM, SIDE * ZOOM);
    this.show();
  }

  /** Shows a picture of SIDE x SIDE pixels; drawing continues on it. */
  put({ data }) {
    for (let i = 0; i < data.length; i++) {
      this.context.fillStyle = `rgb(${data[i]} ${data[i]} ${data[i]})`;
      this.context.fillRect((i % SIDE) * ZOOM, Math.trunc(i / SIDE) * ZOOM, ZOOM, ZOOM);
    }
    this.show();
  }

  /** Returns what is on the board, SIDE x SIDE. */
  picture() {
    const side = SIDE * ZOOM;
    return reduced(greyOf(this.context.getImageData(0, 0, side, side)));
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.place(event);
    this.line(this.last, this.last);
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
  }

  move(event) {
    if (!this.last) return;
    const here = this.place(event);
    this.line(this.last, here);
    this.last = here;
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const pen = this.pen;
    if (event.key === " ") {
      pen.down = !pen.down;
      pen.byKeys = true;
      if (pen.down) this.line(pen, pen);
    } else if (steps[event.key]) {
      const before = { x: pen.x, y: pen.y };
      const limit = (value) => Math.min(Math.max(value, 0), SIDE * ZOOM);
      pen.x = limit(pen.x + STEP * steps[event.key][0]);
      pen.y = limit(pen.y + STEP * steps[event.key][1]);
      pen.byKeys = true;
      if (pen.down) this.line(before, pen);
    } else return;
    event.preventDefault();
    this.show();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = (SIDE * ZOOM) / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  line(from, to) {
    const context = this.context;
    context.strokeStyle = `rgb(${this.grey} ${this.grey} ${this.grey})`;
    context.lineWidth = this.brush;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
    this.show();
    this.changed();
  }

  show() {
    const context = this.canvas.getContext("2d");
    context.drawImage(this.paper, 0, 0);
    if (!this.pen.byKeys) return;
    context.lineWidth = 2;
    context.strokeStyle = this.pen.down ? "#ff5252" : "#40c4ff";
    context.beginPath();
    context.arc(this.pen.x, this.pen.y, Math.max(this.brush / 2, 4), 0, 2 * Math.PI);
    context.stroke();
  }
}
