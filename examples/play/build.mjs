// Bundles the page's program, and puts the runtime beside it, so that the page fetches nothing
// from elsewhere. Writes docs/play/built, or the folder that is given: node build.mjs [FOLDER]
import { copyFileSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "..", "..", "docs", "play", "built");
mkdirSync(target, { recursive: true });

await build({
  entryPoints: [join(here, "src", "main.js")],
  outfile: join(target, "play.js"),
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "eof",
});

const program = "ort-wasm-simd-threaded.wasm";
copyFileSync(join(here, "node_modules", "onnxruntime-web", "dist", program), join(target, program));
console.log(`wrote ${target}`);
