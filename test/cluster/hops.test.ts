import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import express from 'express'
import fastify from 'fastify'
import { pino } from 'pino'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { routes } from '../../examples/payledger/app.ts'
import { createRun } from '../../examples/payledger/payledger.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { PrometheusMetrics } from '../../src/fleet/prometheus.ts'
import type { Loss } from '../../src/hops.ts'
import { SessionCarrier, sessionFetch, sessionMiddleware, sessionOf } from '../../src/hops.ts'
import { createHttpApp } from '../../src/http/http.ts'
import type { HttpServer } from '../../src/http/serve.ts'
import { serveHttp } from '../../src/http/serve.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** A browser, a program that renders pages without a key of its own, a gateway, and followers that show nothing new. */

const tenant = 'globex-eu'
const shard = 'eu-west/payroll'
const actor = 'manager@globex-eu.example'
const losses: Loss[] = []

let fleet: TestFleet
let gateway: Gateway
let metrics: PrometheusMetrics
let upstream: HttpServer
const closers: (() => Promise<unknown>)[] = []

beforeAll(async () => {
  fleet = await TestFleet.open()
  metrics = new PrometheusMetrics()
  gateway = await fleet.gateway('eu-west', { metrics })
  await seedTenant(gateway, tenant)
  const forgetful = {
    method: 'POST',
    path: '/forgetful',
    handle: () => Promise.resolve({ status: 200, body: {} }),
  } as const
  const app = createHttpApp({
    fleet: gateway,
    appRoutes: [...routes, forgetful],
    registry: metrics.registry,
    metrics,
    logger: pino({ level: 'silent' }),
  })
  upstream = await serveHttp({ app, host: '127.0.0.1', port: 0 })
})

afterAll(async () => {
  await Promise.all(closers.map((close) => close()))
  await upstream?.close()
  await fleet?.close()
})

beforeEach(() => void losses.splice(0))

interface Page {
  readonly url: string
}

const statusOf = async (call: typeof fetch | ReturnType<typeof sessionFetch>, run: string) => {
  const answer = await call(`${upstream.url}/payledger/${tenant}/runs/${run}`)
  return ((await answer.json()) as { status: string }).status
}

const approveBy = (call: ReturnType<typeof sessionFetch>, run: string) =>
  call(`${upstream.url}/payledger/${tenant}/runs/${run}/approve`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ actor }),
  })

const hopOptions = { cookies: { secure: false }, onLoss: (loss: Loss) => void losses.push(loss) }
const callOf = (request: object) => sessionFetch({ origins: [upstream.url], carrier: sessionOf(request) })

async function withExpress(): Promise<Page> {
  const app = express()
  app.use(sessionMiddleware(hopOptions))
  app.post('/approve/:run', async (request, response) => {
    const { status } = await approveBy(callOf(request), request.params.run)
    response.cookie('own', '1').status(status).send('done')
  })
  app.get('/page/:runs', async (request, response) => {
    const call = callOf(request)
    response.json(await Promise.all(request.params.runs.split('+').map((run) => statusOf(call, run))))
  })
  const server = await new Promise<Server>((resolve) => {
    const listening: Server = app.listen(0, '127.0.0.1', () => resolve(listening))
  })
  closers.push(() => new Promise((resolve) => server.close(resolve)))
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}

async function withFastify(): Promise<Page> {
  const app = fastify()
  const carry = sessionMiddleware(hopOptions)
  app.addHook('onRequest', (request, reply, done) => carry(request.raw, reply.raw, done))
  app.post<{ Params: { run: string } }>('/approve/:run', async (request, reply) => {
    const { status } = await approveBy(callOf(request.raw), request.params.run)
    return reply.header('set-cookie', 'own=1').code(status).send('done')
  })
  app.get<{ Params: { runs: string } }>('/page/:runs', async (request) => {
    const call = callOf(request.raw)
    return Promise.all(request.params.runs.split('+').map((run) => statusOf(call, run)))
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  closers.push(() => app.close())
  return { url: `http://127.0.0.1:${(app.server.address() as AddressInfo).port}` }
}

/** What a browser does with cookies: each answer's are kept when it arrives, in the order of arrival. */
class Browser {
  readonly jar = new Map<string, string>()

  async ask(url: string, init: RequestInit = {}): Promise<Response> {
    const cookie = [...this.jar].map(([name, value]) => `${name}=${value}`).join('; ')
    const answer = await fetch(url, { ...init, headers: cookie === '' ? {} : { cookie } })
    for (const set of answer.headers.getSetCookie()) {
      const [pair = ''] = set.split(';')
      const name = pair.slice(0, pair.indexOf('='))
      if (/Max-Age=0/.test(set)) this.jar.delete(name)
      else this.jar.set(name, pair.slice(name.length + 1))
    }
    return answer
  }

  get tokens(): string[] {
    return [...this.jar].filter(([name]) => name.startsWith('holdfast_session.')).map(([, token]) => token)
  }
}

/** Followers that have everything, and then show nothing that is new. */
async function whileFollowersStand<T>(work: () => Promise<T>): Promise<T> {
  const followers = fleet.nodesOf(shard).filter((id) => id !== fleet.primary(shard).id)
  for (const id of followers) {
    await fleet.askNode(id, 'select pg_wal_replay_pause()')
    await eventually(async () => {
      const [row] = await fleet.askNode<{ state: string }>(id, 'select pg_get_wal_replay_pause_state() as state')
      return row?.state === 'paused'
    })
  }
  try {
    return await work()
  } finally {
    for (const id of followers) await fleet.askNode(id, 'select pg_wal_replay_resume()')
  }
}

describe.each([
  ['Express', withExpress],
  ['Fastify', withFastify],
])('behind a program with %s', (framework, serve) => {
  test('two clicks at once, and the next page shows both; later one token is left', async () => {
    const page = await serve()
    const browser = new Browser()
    const runs = [`${framework}-1`, `${framework}-2`].map((run) => run.toLowerCase())
    for (const run of runs) await createRun(gateway, { tenant, run, actor, department: 'hq' })
    await whileFollowersStand(async () => {
      const clicks = await Promise.all(runs.map((run) => browser.ask(`${page.url}/approve/${run}`, { method: 'POST' })))
      expect(clicks.map(({ status }) => status)).toEqual([200, 200])
      expect(browser.tokens).toHaveLength(2)
      expect(browser.jar.get('own')).toBe('1')
      const shown = await browser.ask(`${page.url}/page/${runs.join('+')}`)
      expect(await shown.json()).toEqual(['approved', 'approved'])
      // Two reads at once, each of which has joined the two.
      expect(browser.tokens.length).toBeLessThanOrEqual(2)
    })
    await browser.ask(`${page.url}/page/${runs[0]}`)
    expect(browser.tokens).toHaveLength(1)
    expect(losses).toEqual([])
  })
})

describe('a gateway', () => {
  test('joins the tokens of one request, in whatever order they come, and gives one', async () => {
    const runs = ['join-1', 'join-2'] as const
    for (const run of runs) await createRun(gateway, { tenant, run, actor, department: 'hq' })
    const approved = async (run: string) => {
      const answer = await approveBy(sessionFetch({ origins: [upstream.url], carrier: new SessionCarrier({}) }), run)
      return answer.headers.get('holdfast-session') ?? ''
    }
    const carrying = (carried: readonly string[]) => new SessionCarrier({ carried })
    const first = await approved(runs[0])
    const of = (carrier: SessionCarrier) => sessionFetch({ origins: [upstream.url], carrier })
    // A follower shows the first from here on, and none shows the second.
    await eventually(async () => {
      const shown = await of(carrying([first]))(`${upstream.url}/payledger/${tenant}/runs/${runs[0]}`)
      return shown.headers.get('holdfast-served-by') !== fleet.primary(shard).id
    })
    await whileFollowersStand(async () => {
      const second = await approved(runs[1])
      expect(await statusOf(of(carrying([first])), runs[1])).toBe('draft')
      for (const carried of [
        [first, second],
        [second, first],
      ]) {
        const carrier = carrying(carried)
        expect(await statusOf(of(carrier), runs[1])).toBe('approved')
        expect(carrier.carried).toHaveLength(1)
        expect(carried).not.toContain(carrier.session)
      }
    })
  })

  test('hands a session back as it came where a route has none; where it should have one, that is counted', async () => {
    const { session } = await gateway.read({ tenant }, (read) => read.query('payroll', 'select 1'))
    const carrier = new SessionCarrier({ carried: [session], onLoss: (loss) => void losses.push(loss) })
    const call = sessionFetch({ origins: [upstream.url], carrier })
    await call(`${upstream.url}/v1/fleet`)
    await call(`${upstream.url}/payledger/finance/timeline`)
    expect(await metrics.registry.metrics()).not.toMatch(/session_lost_total\{.*\} [1-9]/)
    await call(`${upstream.url}/forgetful`, { method: 'POST' })
    expect(await metrics.registry.metrics()).toMatch(/session_lost_total\{route="\/forgetful"\} 1/)
    expect([carrier.session, losses]).toEqual([session, []])
  })

  test('says for which tokens there is no use, and they are let go of', async () => {
    const carrier = new SessionCarrier({ carried: ['nonsense'], onLoss: (loss) => void losses.push(loss) })
    const call = sessionFetch({ origins: [upstream.url], carrier })
    const refused = await call(`${upstream.url}/payledger/${tenant}/runs/join-1`)
    expect(refused.headers.get('holdfast-session-refused')).toBe('token_malformed')
    expect(losses).toEqual([{ reason: 'refused', tokens: 1, detail: 'token_malformed' }])
    expect(await statusOf(call, 'join-1')).toBe('approved')
  })

  test('more tokens than any page has calls are refused with what would be right', async () => {
    const { session } = await gateway.read({ tenant }, (read) => read.query('payroll', 'select 1'))
    const many = Array.from({ length: 65 }, () => session).join(', ')
    const reading = gateway.read({ tenant, session: many }, (read) => read.query('payroll', 'select 1'))
    await expect(reading).rejects.toMatchObject({
      code: 'token_malformed',
      hint: expect.stringContaining('in place of'),
    })
  })
})
