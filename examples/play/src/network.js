// A network of the page: its file, and what comes out of it.
import * as ort from "onnxruntime-web/wasm";
import { normalised } from "./pixels.js";

// One thread: more need headers that plain web servers do not send.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href };

/**
 * A map of a stage: `data` is [height, width, channels].
 * @typedef {{name: string, height: number, width: number, channels: number, data: Float32Array}} Map
 */

export class Network {
  /** @param facts an entry of networks.json; @param folder address of the folder with its file. */
  constructor(facts, folder) {
    this.facts = facts;
    this.address = new URL(facts.file, folder);
  }

  /** Loads the file at the first call. */
  load() {
    this.session ??= ort.InferenceSession.create(this.address.href, {
      executionProviders: ["wasm"],
    });
    return this.session;
  }

  /** Classifies a picture of SIDE x SIDE pixels, one call after another. */
  see(picture) {
    this.turn = (this.turn ?? Promise.resolve()).catch(() => {}).then(() => this.run(picture));
    return this.turn;
  }

  async run(picture) {
    const session = await this.load();
    const size = this.facts.size;
    const images = new ort.Tensor("float32", normalised(picture, size), [1, size, size, 1]);
    const started = performance.now();
    const results = await session.run({ images });
    const milliseconds = performance.now() - started;
    return {
      milliseconds,
      logits: Array.from(results.logits.data),
      heat: mapOf("heat", results.heat),
      stages: this.facts.stages.map((name) => mapOf(name, results[name])),
    };
  }
}

function mapOf(name, { dims, data }) {
  const [, height, width, channels] = dims;
  return { name, height, width, channels, data };
}

/** Returns the probabilities of logits. */
export function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((x) => Math.exp(x - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((x) => x / sum);
}
