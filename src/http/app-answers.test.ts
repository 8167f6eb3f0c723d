import { register } from 'prom-client'
import { expect, test } from 'vitest'
import { HoldfastError } from '../base/errors.ts'
import type { Fleet } from '../fleet/fleet-api.ts'
import type { AppResponse, AppRoute } from './app-route.ts'
import { createHttpApp } from './http.ts'
import { problemContentType } from './problem.ts'

const answers: Readonly<Record<string, AppResponse>> = {
  nothing: { status: 204, body: { done: true }, session: 'next' },
  reset: { status: 205, body: 'done' },
  unchanged: { status: 304, body: null },
  empty: { status: 200, body: undefined },
  missing: {
    status: 404,
    body: new HoldfastError('unknown_subject', 'no run x', { detail: { run: 'x' } }),
    session: 'n',
  },
  titled: { status: 404, body: { title: 'no run x' } },
  taken: { status: 409, body: 'taken' },
  picky: { status: 422, body: { field: 'iban' } },
  broken: { status: 500, body: { detail: 'salary 320000' } },
  thrown: { status: 500, body: new TypeError('salary 320000') },
  odd: { status: 507, body: 'salary 320000' },
  wrapped: { status: 500, body: new Error('it failed', { cause: new HoldfastError('outcome_ambiguous', 'lost') }) },
  anonymous: { status: 401, body: { detail: 'who asks?' } },
  forbidden: { status: 403, body: { title: 'not yours' } },
  slow: { status: 408, body: null },
  early: { status: 425, body: null },
  limited: { status: 429, body: { code: 'rate_limited', retry: 'safe', retryAfterMs: 4_200 } },
  endless: { status: 429, body: { retryAfterMs: Infinity } },
  upstream: { status: 502, body: null },
  busy: { status: 503, body: { title: 'the bank is closed' } },
  late: { status: 504, body: null },
}

const worked: string[] = []
const page: AppRoute['handle'] = ({ params }) => {
  const name = params['page'] ?? ''
  worked.push(name)
  return Promise.resolve(answers[name] ?? { status: 200, body: { page: name } })
}
const appRoutes: AppRoute[] = [
  { method: 'GET', path: '/{page}', handle: page },
  { method: 'POST', path: '/{page}', handle: page },
  { method: 'GET', path: '/{area}/{page}', handle: page },
]
const fleet = { status: () => Promise.resolve({ ready: true }) } as Partial<Fleet> as Fleet
const logged: unknown[] = []
const logger = { info: () => {}, error: (...entry: unknown[]) => void logged.push(...entry) }
const app = createHttpApp({ fleet, appRoutes, registry: register, logger })

test.each<[string, string, unknown]>([
  ['GET', '/healthz', { ok: true }],
  ['GET', '/readyz', { ready: true }],
  ['GET', '/openapi.json', { openapi: '3.1.0' }],
  ['POST', '/readyz', { code: 'unknown_route' }],
  ['GET', '/v1/nothing', { code: 'unknown_route' }],
  ['GET', '/other', { page: 'other' }],
  ['GET', '/area/other', { page: 'other' }],
])('W1: %s %s is answered by whom it belongs to, whatever the application has', async (method, path, body) => {
  const answer = await app.request(path, { method })
  expect(await answer.json()).toMatchObject(body as object)
})

test('W1: the metrics are those of Holdfast', async () => {
  expect((await app.request('/metrics')).headers.get('content-type')).toContain('text/plain')
})

test.each<[string, number, string]>([
  ['missing', 404, 'unknown_subject'],
  ['titled', 404, 'unknown_subject'],
  ['taken', 409, 'transaction_refused'],
  ['picky', 422, 'argument_invalid'],
  ['broken', 500, 'internal'],
  ['thrown', 500, 'internal'],
  ['odd', 507, 'internal'],
  ['wrapped', 500, 'outcome_ambiguous'],
  ['anonymous', 401, 'application_denied'],
  ['forbidden', 403, 'application_denied'],
  ['slow', 408, 'application_unavailable'],
  ['early', 425, 'application_unavailable'],
  ['limited', 429, 'application_unavailable'],
  ['upstream', 502, 'application_unavailable'],
  ['busy', 503, 'application_unavailable'],
  ['late', 504, 'application_unavailable'],
])('W1: what a handler answers as %s is a problem document', async (name, status, code) => {
  const answer = await app.request(`/${name}`)
  expect(answer.headers.get('content-type')).toBe(problemContentType)
  const problem = (await answer.json()) as Record<string, unknown>
  expect([answer.status, problem['status'], problem['code']]).toEqual([status, status, code])
  expect(problem).toMatchObject({ category: expect.any(String), retry: expect.any(String) })
  expect(JSON.stringify(problem)).not.toContain('salary')
})

test('W1: the problem of a handler says what the handler said, and carries its session', async () => {
  const missing = await app.request('/missing')
  expect(missing.headers.get('holdfast-session')).toBe('n')
  expect(await missing.json()).toMatchObject({ detail: 'no run x', context: { run: 'x' } })
  expect(await (await app.request('/titled')).json()).toMatchObject({ detail: 'no run x' })
  expect(await (await app.request('/taken')).json()).toMatchObject({ detail: 'taken', context: {} })
  expect(await (await app.request('/picky')).json()).toMatchObject({ context: { field: 'iban' } })
})

test('W1: what the application did not take now is to be sent again, after the time that it says', async () => {
  const limited = await app.request('/limited')
  expect(limited.headers.get('retry-after')).toBe('5')
  const body = { category: 'unavailable', retry: 'safe', context: { code: 'rate_limited', retryAfterMs: 4_200 } }
  expect(await limited.json()).toMatchObject(body)
  const waits = ['slow', 'early', 'endless', 'upstream', 'busy', 'late', 'forbidden', 'picky', 'broken']
  const told = await Promise.all(waits.map(async (name) => (await app.request(`/${name}`)).headers.get('retry-after')))
  expect(told).toEqual(['1', '1', '1', '1', '1', '1', null, null, null])
  expect(await (await app.request('/busy')).json()).toMatchObject({ detail: 'the bank is closed', retry: 'safe' })
  expect(await (await app.request('/forbidden')).json()).toMatchObject({ category: 'denied', detail: 'not yours' })
})

test('W3: of a failure that the application answers the log has the route, the status and what the body was', async () => {
  logged.length = 0
  const told = await Promise.all(
    ['broken', 'thrown', 'odd'].map(async (name) => (await app.request(`/${name}`)).json()),
  )
  const details = [500, 500, 507].map((status) => ({ detail: `the application answered with status ${status}` }))
  expect(told).toMatchObject(details)
  const of = { method: 'GET', route: '/{page}' }
  expect(logged).toContainEqual({ ...of, status: 500, body: ['detail'] })
  expect(logged).toContainEqual({ error: 'TypeError', stack: expect.arrayContaining([expect.stringContaining('at ')]) })
  expect(logged).toContainEqual({ ...of, status: 507, body: 'string' })
  expect(JSON.stringify(logged)).not.toContain('salary')
  logged.length = 0
  await app.request('/picky')
  expect(logged).toEqual([])
})

test.each<[string, number]>([
  ['nothing', 204],
  ['reset', 205],
  ['unchanged', 304],
  ['empty', 200],
])('a body that the status of %s does not have fails nothing behind the work', async (name, status) => {
  worked.length = 0
  const answer = await app.request(`/${name}`)
  expect([worked, answer.status, await answer.text()]).toEqual([[name], status, ''])
  expect(answer.headers.get('holdfast-session')).toBe(answers[name]?.session ?? null)
})
