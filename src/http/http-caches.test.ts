import { register } from 'prom-client'
import { expect, test } from 'vitest'
import { HoldfastError } from '../base/errors.ts'
import type { Fleet } from '../fleet/fleet-api.ts'
import type { AppRoute } from './app-route.ts'
import { createHttpApp } from './http.ts'

const answering = (path: string, rest: Pick<AppRoute, 'handle'> & Partial<AppRoute>): AppRoute => ({
  method: 'GET',
  path,
  ...rest,
})
const appRoutes: AppRoute[] = [
  answering('/taking', { handle: () => Promise.resolve({ status: 200, body: {} }) }),
  answering('/giving', { handle: () => Promise.resolve({ status: 200, body: {}, session: 'next' }) }),
  answering('/without', { session: false, handle: () => Promise.resolve({ status: 200, body: {} }) }),
  answering('/missing', { handle: () => Promise.reject(new HoldfastError('unknown_transaction', 'not yet')) }),
  answering('/absent', {
    session: false,
    handle: () => Promise.reject(new HoldfastError('unknown_transaction', 'not yet')),
  }),
  answering('/refusing', { handle: () => Promise.reject(new HoldfastError('write_lost', 'gone')) }),
]
// Nothing of it is asked: only the routes of the application.
const fleet = {} as Fleet
const app = createHttpApp({ fleet, appRoutes, registry: register, logger: { info: () => {}, error: () => {} } })

test.each([
  ['a route that takes a session', '/taking', undefined, true],
  ['a route that gives one', '/giving', undefined, true],
  ['a session that goes back as it came', '/without', 'token', true],
  ['a refused session', '/refusing', 'token', true],
  ['a problem of a route that takes a session', '/missing', undefined, true],
  ['a problem and a session that is carried on', '/absent', 'token', true],
  ['nothing of a session', '/without', undefined, false],
  ['a problem and nothing of a session', '/absent', undefined, false],
])('W5: the answer with %s is kept by no cache: %s', async (_, path, session, isPrivate) => {
  const { headers } = await app.request(path, session === undefined ? {} : { headers: { 'Holdfast-Session': session } })
  const said = [headers.get('cache-control'), headers.get('vary')]
  expect(said).toEqual(isPrivate ? ['private, no-store', 'Holdfast-Session'] : [null, null])
})
