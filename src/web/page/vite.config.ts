/** Builds the page into src/web/public, which `lensmill serve` serves as it stands: no script, style or picture inline. */
import { defineConfig } from 'vite';

export default defineConfig({
  // Relative, so that a proxy may serve it below any path.
  base: './',
  publicDir: 'static',
  build: {
    outDir: '../public',
    emptyOutDir: true,
    target: 'es2022',
    // Inlined, they would be data: URLs, which the server's Content-Security-Policy forbids.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
