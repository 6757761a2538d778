import { existsSync, readdirSync, readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";
import { dependencies } from "./package.json" with { type: "json" };

// KaTeX's stylesheet names each font in three formats. All browsers that can run the page read WOFF2.
const onlyWoff2: Plugin = {
  name: "only-woff2",
  enforce: "pre",
  transform(code, id) {
    if (id.endsWith("katex.min.css")) return code.replace(/,url\([^)]*\.(woff|ttf)\) format\("\w+"\)/g, "");
  },
};

// The licences of the libraries ask to be passed on with them.
const licences: Plugin = {
  name: "licences",
  generateBundle() {
    const texts = Object.entries(dependencies).map(([name, version]) => {
      const files = ["LICENSE", "LICENSE.md", "LICENSE.txt"].map((file) => `node_modules/${name}/${file}`);
      return `${name} ${version}\n\n${readFileSync(files.find(existsSync)!, "utf-8").trim()}\n`;
    });
    texts.push(`CMaps of Adobe\n\n${readFileSync(`${CMAPS}/LICENSE`, "utf-8").trim()}\n`);
    this.emitFile({ type: "asset", fileName: "webui/licences.txt", source: texts.join(`\n${"-".repeat(80)}\n\n`) });
  },
};

const CMAPS = "node_modules/pdfjs-dist/cmaps";

// What the codes of texts in Chinese, Japanese and Korean mean. pdf.js loads one when a PDF file names it.
const cmaps: Plugin = {
  name: "cmaps",
  generateBundle() {
    for (const name of readdirSync(CMAPS).filter((file) => file.endsWith(".bcmap")).sort())
      this.emitFile({ type: "asset", fileName: `webui/cmaps/${name}`, source: readFileSync(`${CMAPS}/${name}`) });
  },
};

export default defineConfig({
  base: "./", // the page may be served below any path
  publicDir: false,
  plugins: [onlyWoff2, licences, cmaps],
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../static/page",
    emptyOutDir: true,
    assetsDir: "webui",
    assetsInlineLimit: 0, // the Content-Security-Policy allows no fonts in data: URLs
    modulePreload: false,
    target: "es2022",
    chunkSizeWarningLimit: 1000,
    rolldownOptions: {
      output: {
        // No hashes: browsers revalidate the files, and a rebuilt page changes only files whose content has changed.
        entryFileNames: "webui/page.js",
        chunkFileNames: "webui/[name].js",
        assetFileNames: ({ names }) => (names[0] === "index.css" ? "webui/page.css" : "webui/[name][extname]"),
      },
    },
  },
});
