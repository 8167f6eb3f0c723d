/** Loads TypeScript of this repository through the module runner that the tests use: Node 20 runs none. */
import { fileURLToPath } from 'node:url'
import { createViteServer } from 'vitest/node'

const root = fileURLToPath(new URL('..', import.meta.url))
const source = (name) => fileURLToPath(new URL(`../src/${name}`, import.meta.url))

/** Calls `run` with the module at a path below the root, which lasts as long as the call. */
export async function withModule(path, run) {
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
    return await run(await server.ssrLoadModule(path))
  } finally {
    await server.close()
  }
}
