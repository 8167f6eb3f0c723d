/** Runs `test/torture/torture.ts` through the module runner that the tests use: Node 20 runs no TypeScript. */
import { fileURLToPath } from 'node:url'
import { createViteServer } from 'vitest/node'

const root = fileURLToPath(new URL('..', import.meta.url))
const source = (name) => fileURLToPath(new URL(`../src/${name}`, import.meta.url))
const server = await createViteServer({
  root,
  configFile: false,
  logLevel: 'error',
  appType: 'custom',
  server: { middlewareMode: true, hmr: false, ws: false, watch: null },
  optimizeDeps: { noDiscovery: true },
  // Node 20 does not know `await using` either.
  oxc: { target: 'node20' },
  resolve: { alias: { 'holdfast/testing': source('testing.ts'), holdfast: source('index.ts') } },
})
try {
  const { main } = await server.ssrLoadModule('/test/torture/torture.ts')
  process.exitCode = await main(process.argv.slice(2))
} finally {
  await server.close()
}
