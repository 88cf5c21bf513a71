// npm ci && npm run build: frontend.js, with all that it imports, to template/static, and the lines that load it.

import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const sha256 = (...contents) => contents.reduce((hash, content) => hash.update(content), createHash("sha256")).digest("hex");
const sources = readdirSync(".").filter((name) => /\.(js|json)$/.test(name)).sort();

const { outputFiles, metafile } = await build({
  entryPoints: ["frontend.js"],
  outdir: "../template/static",
  write: false,
  metafile: true,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  loader: { ".svg": "dataurl" },
  legalComments: "none", // but see below
});

// Voilà's server compresses nothing, so the script is stored compressed and the browser unpacks it. With the file's own
// hash in its address a browser may keep it for ten years, and the server says so.
const address = {};
for (const { path, contents } of outputFiles) {
  const packed = path.endsWith(".js");
  const content = packed ? gzipSync(contents, { level: 9 }) : contents;
  const name = path.split("/").pop() + (packed ? ".gz" : "");
  writeFileSync(`../template/static/${name}`, content);
  address[name] = `{{ static }}${name}?v=${sha256(content).slice(0, 16)}`;
}

// The licences of all that is in it ask to be passed on with it.
const folders = Object.keys(metafile.inputs).map((path) => path.match(/^node_modules\/(@[^/]+\/)?[^/]+/)?.[0]);
const licences = [...new Set(folders)].filter(Boolean).sort().map((folder) => {
  const { name, version, license } = JSON.parse(readFileSync(`${folder}/package.json`));
  const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
  return `${name} ${version}, ${license}\n\n${file ? readFileSync(`${folder}/${file}`, "utf8").trim() : ""}\n`;
});
writeFileSync("../template/static/LICENSES.txt", licences.join("\n----\n\n"));

writeFileSync(
  "../template/frontend.html.j2",
  `{#- Written by frontend/build.js from sources with the SHA-256 ${sha256(...sources.map((name) => readFileSync(name)))} -#}
<link rel="stylesheet" href="${address["frontend.css"]}">
<link rel="preload" as="fetch" crossorigin href="${address["frontend.js.gz"]}">
<script type="module">
  let why = "This page could not be started. Please reload it.";
  if (!window.DecompressionStream || !window.WebSocket)
    why = "This browser is too old for this page. Please open it in a Chrome, Edge, Firefox or Safari of 2024 or later.";
  try {
    const { body } = await fetch("${address["frontend.js.gz"]}");
    const script = await new Response(body.pipeThrough(new DecompressionStream("gzip"))).text();
    await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  } catch (error) {
    const loading = document.getElementById("loading");
    loading.textContent = why;
    loading.hidden = false;
    throw error; // to the browser's console
  }
</script>
`,
);
