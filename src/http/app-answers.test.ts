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
  broken: { status: 503, body: { detail: 'salary 320000' } },
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
const app = createHttpApp({ fleet, appRoutes, registry: register, logger: { info: () => {}, error: () => {} } })

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
