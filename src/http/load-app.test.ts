import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { checkAppRoutes, loadAppRoutes } from './load-app.ts'

const handle = () => Promise.resolve({ status: 200, body: {} })

describe('the application', () => {
  test('is its list of routes', () => {
    const routes = [{ method: 'GET', path: '/payledger/{tenant}', handle }]
    expect(checkAppRoutes({ routes }, 'app.js')).toBe(routes)
  })

  test.each([
    ['no routes', {}],
    ['routes that are no list', { routes: {} }],
    ['an unknown method', { routes: [{ method: 'BREW', path: '/x', handle }] }],
    ['a relative path', { routes: [{ method: 'GET', path: 'x', handle }] }],
    ['nothing that handles', { routes: [{ method: 'GET', path: '/x' }] }],
    ['a path of the API', { routes: [{ method: 'GET', path: '/v1/mine', handle }] }],
    ['a path that machines ask', { routes: [{ method: 'GET', path: '/metrics', handle }] }],
  ])('with %s is refused', (_, module) => {
    expect(() => checkAppRoutes(module, 'app.js')).toThrow(expect.objectContaining({ code: 'config_invalid' }))
  })

  test('that is not there is refused with its path', async () => {
    const path = fileURLToPath(new URL('no-such-app.js', import.meta.url))
    await expect(loadAppRoutes(path)).rejects.toMatchObject({
      code: 'config_invalid',
      message: expect.stringContaining('no-such-app.js'),
    })
  })
})
