import { pino } from 'pino'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { routes } from '../../examples/payledger/app.ts'
import { createRun } from '../../examples/payledger/payledger.ts'
import { employeesOf } from '../../examples/payledger/seed.ts'
import { systemClock } from '../../src/base/clock.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { readTokenKeys, retirementOf } from '../../src/fleet/keys.ts'
import { PrometheusMetrics } from '../../src/fleet/prometheus.ts'
import { Sessions } from '../../src/fleet/sessions.ts'
import { TokenRing } from '../../src/fleet/token-ring.ts'
import { bodyBytesMax, bodyLevelsMax, createHttpApp } from '../../src/http/http.ts'
import type { HttpServer } from '../../src/http/serve.ts'
import { serveHttp } from '../../src/http/serve.ts'
import { joinFrontiers } from '../../src/session/frontier.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** The gateway over HTTP, with PayLedger's routes, on a real fleet. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const logged: string[] = []

let fleet: TestFleet
let gateway: Gateway
let server: HttpServer

beforeAll(async () => {
  fleet = await TestFleet.open()
  const metrics = new PrometheusMetrics()
  gateway = await fleet.gateway('eu-west', { metrics })
  await seedTenant(gateway, tenant)
  const logger = pino({ level: 'info' }, { write: (line: string) => void logged.push(line) })
  const app = createHttpApp({ fleet: gateway, appRoutes: routes, registry: metrics.registry, logger })
  server = await serveHttp({ app, host: '127.0.0.1', port: 0 })
})

afterAll(async () => {
  await server?.close()
  await fleet?.close()
})

interface Answer<Body = Record<string, unknown>> {
  readonly status: number
  readonly headers: Headers
  readonly body: Body
}

interface Page {
  readonly entries: readonly { readonly name: string; readonly commitTimestamp: string; readonly attributed: boolean }[]
  readonly next: string | null
}

async function ask<Body = Record<string, unknown>>(path: string, init: RequestInit = {}): Promise<Answer<Body>> {
  const response = await fetch(`${server.url}${path}`, init)
  return { status: response.status, headers: response.headers, body: JSON.parse(await response.text()) }
}

function post(path: string, body: unknown, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  return ask(path, { method: 'POST', body: text, headers: { 'content-type': 'application/json', ...headers } })
}

const draft = (run: string) => createRun(gateway, { tenant, run, actor, department: 'hq' })
const approve = (run: string, headers: Readonly<Record<string, string>> = {}) =>
  post(`/payledger/${tenant}/runs/${run}/approve`, { actor }, headers)

function problem(answer: Answer, status: number, code: string): void {
  expect(answer.body).toMatchObject({ status, code, type: `urn:holdfast:error:${code}` })
  expect(answer.status).toBe(status)
  expect(answer.headers.get('content-type')).toBe('application/problem+json')
}

const business = { tenant, action: 'payroll.note', subject: 'x', actor }

describe('approving over HTTP', () => {
  test('gives the outcome and a session; the second click gets the same, and says so', async () => {
    await draft('clicked')
    const first = await approve('clicked', { 'idempotency-key': 'click' })
    expect(first.body).toMatchObject({ run: 'clicked', status: 'approved', totalCents: '3818750', replayed: false })
    expect(first.headers.get('holdfast-session')).toBeTruthy()
    const second = await approve('clicked', { 'idempotency-key': 'click' })
    expect(second.body).toEqual({ ...first.body, replayed: true })
  })

  test('W1: a run that was approved before is a conflict that names the transaction', async () => {
    await draft('before')
    const { body } = await approve('before')
    const again = await approve('before')
    problem(again, 409, 'transaction_refused')
    expect(again.body).toMatchObject({ retry: 'never', context: { approvedIn: body['transactionId'] } })
  })

  test('the next screen shows it, and says who answered', async () => {
    await draft('screen')
    const session = (await approve('screen')).headers.get('holdfast-session') ?? ''
    const shown = await ask(`/payledger/${tenant}/runs/screen`, { headers: { 'holdfast-session': session } })
    expect(shown.body).toMatchObject({ id: 'screen', status: 'approved', totalCents: '3818750', approvedBy: actor })
    expect(shown.headers.get('holdfast-served-by')).toMatch(/^eu-west\/payroll\.\d+$/)
    expect(shown.headers.get('holdfast-applied-through')).toMatch(/^[0-9A-F]+\/[0-9A-F]+$/)
    expect(shown.headers.get('holdfast-waited-ms')).toMatch(/^\d+$/)
    expect(shown.headers.get('holdfast-session')).toBeTruthy()
  })

  test('W1: a run that is not there is a problem, with the session that has seen so', async () => {
    const answer = await ask(`/payledger/${tenant}/runs/nope`)
    problem(answer, 404, 'unknown_subject')
    expect(answer.body).toMatchObject({ category: 'not_found', retry: 'never', context: { tenant, run: 'nope' } })
    expect(answer.headers.get('holdfast-session')).toBeTruthy()
    expect(answer.headers.get('holdfast-served-by')).toMatch(/^eu-west\/payroll\.\d+$/)
  })

  test('a body that names no actor is refused with what would be right', async () => {
    const answer = await post(`/payledger/${tenant}/runs/clicked/approve`, {})
    problem(answer, 400, 'argument_invalid')
    expect(answer.body['hint']).toContain('actor')
  })
})

describe('a batch of statements', () => {
  test('runs as one business action over two shards, and gives each result', async () => {
    const answer = await post('/v1/transactions', {
      ...business,
      statements: [
        { domain: 'payroll', text: 'select count(*) as people from employees where tenant = $1', values: [tenant] },
        {
          domain: 'treasury',
          text: 'update treasury_accounts set balance_cents = balance_cents + 1 where tenant = $1',
          values: [tenant],
          batch: true,
          rows: 1,
        },
      ],
    })
    expect(answer.body).toMatchObject({
      shards: ['eu-west/payroll', 'us-east/treasury'],
      replayed: false,
      results: [{ rows: [{ people: String(employeesOf(tenant).length) }], rowCount: 1 }, null],
    })
  })

  test('is what an idempotency key stands for: other statements under the same key are a conflict', async () => {
    const statements = [{ domain: 'payroll', text: 'select 1 as one' }]
    const key = { 'idempotency-key': 'batch' }
    const first = await post('/v1/transactions', { ...business, statements }, key)
    expect((await post('/v1/transactions', { ...business, statements }, key)).body).toEqual({
      ...first.body,
      replayed: true,
    })
    const other = { ...business, statements: [{ domain: 'payroll', text: 'select 2 as two' }] }
    problem(await post('/v1/transactions', other, key), 409, 'idempotency_conflict')
  })

  test('that affects another number of rows than it says writes nothing', async () => {
    const text = `update employees set department = 'moved' where tenant = $1 and department = 'sales'`
    const statements = [{ domain: 'payroll', text, values: [tenant], rows: 1 }]
    problem(await post('/v1/transactions', { ...business, statements }), 409, 'transaction_refused')
    const moved = await fleet.ask('eu-west/payroll', `select from public.employees where department = 'moved'`)
    expect(moved).toEqual([])
  })

  test.each([
    ['an unknown tenant', { ...business, tenant: 'nobody' }, 'payroll', 404, 'unknown_tenant'],
    ['an unknown domain', business, 'nothing', 404, 'unknown_domain'],
  ])('for %s is not found', async (_, action, domain, status, code) => {
    problem(await post('/v1/transactions', { ...action, statements: [{ domain, text: 'select 1' }] }), status, code)
  })

  test('that controls the transaction is refused', async () => {
    const statements = [{ domain: 'payroll', text: 'commit' }]
    problem(await post('/v1/transactions', { ...business, statements }), 400, 'statement_refused')
  })
})

test('H2: 64 tokens in one request are joined, and answered with one that covers them all', async () => {
  const statements = [{ domain: 'payroll', text: 'select 1' }]
  const queries = [{ domain: 'treasury', text: 'select 1' }]
  const tokens: string[] = []
  for (let n = 0; n < 64; n++) {
    const answer = await (n < 63
      ? post('/v1/transactions', { ...business, statements })
      : post('/v1/reads', { tenant, queries }))
    tokens.push(answer.headers.get('holdfast-session') ?? '')
  }
  expect(new Set(tokens).size).toBe(64)
  const answer = await post('/v1/reads', { tenant, queries }, { 'holdfast-session': tokens.join(', ') })
  expect(answer.status).toBe(200)

  const { config, supervisor } = fleet
  const keys = () => readTokenKeys(supervisor.home.keysDir, retirementOf(config), systemClock.wallMs())
  const sessions = new Sessions({
    fleet: config.fleet,
    ring: await TokenRing.open(keys, systemClock),
    topology: gateway.parts.topology,
    clock: systemClock,
    maxClockOffsetMs: config.maxClockOffsetMs,
  })
  const joined = answer.headers.get('holdfast-session') ?? ''
  expect(joined).not.toContain(',')
  const frontier = await sessions.open(joined, tenant)
  expect([...frontier.shards.keys()].toSorted()).toEqual(['eu-west/payroll', 'us-east/treasury'])
  for (const token of tokens) {
    expect(joinFrontiers(frontier, await sessions.open(token, tenant))).toEqual(frontier)
  }
})

describe('bad requests', () => {
  test('W1: a body that is not JSON', async () => {
    problem(await post('/v1/transactions', '{"tenant":'), 400, 'argument_invalid')
  })

  test('W4: a body that does not say that it is JSON', async () => {
    const answer = await post('/v1/transactions', { ...business, statements: [] }, { 'content-type': 'text/plain' })
    problem(answer, 400, 'argument_invalid')
    expect(answer.body['hint']).toContain('Content-Type')
  })

  test('W1: a body that is too large', async () => {
    problem(await post('/v1/transactions', 'x'.repeat(bodyBytesMax + 1)), 413, 'argument_invalid')
  })

  test('W1: values that lie in each other 3,000 deep', async () => {
    const values = `${'['.repeat(3_000)}${']'.repeat(3_000)}`
    const statement = `{"domain":"payroll","text":"select 1","values":[${values}]}`
    const answer = await post('/v1/transactions', `{"tenant":"${tenant}","statements":[${statement}]}`)
    problem(answer, 400, 'argument_invalid')
    expect(answer.body['detail']).toContain(`${bodyLevelsMax} levels`)
  })

  test('W1: a route that is not there, and a method that is not', async () => {
    problem(await ask('/v1/nothing'), 404, 'unknown_route')
    problem(await ask('/v1/fleet', { method: 'DELETE' }), 404, 'unknown_route')
  })

  test('W1: a session that is malformed, and one that was tampered with', async () => {
    await draft('token')
    const token = (await approve('token')).headers.get('holdfast-session') ?? ''
    const statements = [{ domain: 'payroll', text: 'select 1' }]
    const readWith = (session: string) =>
      post('/v1/transactions', { ...business, statements }, { 'holdfast-session': session })
    problem(await readWith('not-a-token'), 400, 'token_malformed')
    const end = token.endsWith('AAA') ? 'BBB' : 'AAA'
    problem(await readWith(token.slice(0, -3) + end), 403, 'token_forged')
  })

  test('W1: an id that is none, and one that no shard has', async () => {
    problem(await ask('/v1/transactions/x'), 400, 'argument_invalid')
    problem(await ask('/v1/transactions/0196abcd-0000-7000-8000-000000000000'), 404, 'unknown_transaction')
  })
})

describe('what the API tells', () => {
  test('what became of a transaction, and its evidence', async () => {
    await draft('told')
    const id = String((await approve('told')).body['transactionId'])
    const view = await ask(`/v1/transactions/${id}`)
    expect(view.body).toMatchObject({
      transactionId: id,
      outcome: 'committed',
      subject: 'told',
      home: 'eu-west/payroll',
    })
    const evidence = await ask(`/v1/transactions/${id}/evidence`)
    expect(evidence.body).toMatchObject({ transactionId: id, commitTimestamp: view.body['commitTimestamp'] })
    expect(evidence.body['links']).toHaveLength(8)
  })

  test('R9: a read that says its route and leaves its region is counted by it', async () => {
    const queries = [{ domain: 'treasury', text: 'select 1' }]
    const answer = await post('/v1/reads', { tenant, queries, route: 'GET /cash', reach: 'local' })
    expect(answer.status).toBe(200)
    const told = await (await fetch(`${server.url}/metrics`)).text()
    expect(told).toContain('cross_region_drift_total{from="eu-west",to="us-east",route="GET /cash"} 1')
    problem(await post('/v1/reads', { tenant, queries, reach: 'global' }), 400, 'argument_invalid')
  })

  test('the timeline in pages that join without a hole', async () => {
    const page = async (query: string) => (await ask<Page>(`/v1/timeline?tenant=${tenant}${query}`)).body
    const all = await page('')
    const names: string[] = []
    for (let after: string | null = ''; after !== null; ) {
      const next: Page = await page(`&limit=3${after === '' ? '' : `&after=${after}`}`)
      names.push(...next.entries.map(({ name }) => name))
      after = next.next
    }
    expect(names).toEqual(all.entries.map(({ name }) => name))
    problem(await ask('/v1/timeline?since=yesterday'), 400, 'argument_invalid')
    problem(await ask('/v1/timeline?after=yesterday'), 400, 'argument_invalid')
    problem(await ask('/v1/timeline?limit=0'), 400, 'argument_invalid')
  })

  test.each(['/v1/timeline', '/payledger/finance/timeline'])(
    'the pages of %s end where more commits have one timestamp than a page has entries',
    async (path) => {
      const page = async (query: string) => (await ask<Page>(`${path}?${query}`)).body
      const unattributed = async () => (await page('limit=1000')).entries.filter(({ attributed }) => !attributed)
      const before = (await unattributed()).length
      const write = 'update public.employees set name = name'
      for (let each = 0; each < 4; each++) await fleet.ask('eu-west/payroll', write)
      await eventually(async () => (await unattributed()).length === before + 4)
      const stamps = (await unattributed()).slice(-4).map(({ commitTimestamp }) => commitTimestamp)
      expect(new Set(stamps).size).toBe(1)

      const all = (await page('limit=1000')).entries.map(({ name }) => name)
      for (const limit of [1, 3]) {
        const names: string[] = []
        let next: string | null = ''
        while (next !== null && names.length <= all.length) {
          const { entries, next: behind }: Page = await page(`limit=${limit}${next === '' ? '' : `&after=${next}`}`)
          names.push(...entries.map(({ name }) => name))
          next = behind
        }
        expect(names).toEqual(all)
      }
    },
  )

  test('PayLedger’s finance timeline over all tenants, without amounts or people of the rows', async () => {
    await draft('finance')
    const id = (await approve('finance')).body['transactionId']
    const { body } = await ask('/payledger/finance/timeline')
    expect(body['entries']).toContainEqual(expect.objectContaining({ transactionId: id, subject: 'finance' }))
    expect(JSON.stringify(body)).not.toMatch(/iban|cents/i)
  })

  test('shards, nodes, tenants', async () => {
    const { body } = await ask('/v1/fleet')
    expect(body).toMatchObject({ fleet: 'payledger', region: 'eu-west', ready: true })
    const tenants = await ask('/v1/tenants')
    expect(tenants.body['tenants']).toContainEqual(expect.objectContaining({ tenant, home: 'eu-west/payroll' }))
  })

  test('what machines ask', async () => {
    expect((await ask('/healthz')).body).toEqual({ ok: true })
    expect((await ask('/readyz')).body).toEqual({ ready: true })
    expect((await ask('/openapi.json')).body).toMatchObject({ openapi: '3.1.0' })
    const metrics = await fetch(`${server.url}/metrics`)
    expect(metrics.headers.get('content-type')).toContain('text/plain')
    expect(await metrics.text()).toContain('clock_closing_ms')
  })
})

test('W3: the log has routes and codes, and nothing of a tenant', () => {
  const text = logged.join('')
  expect(text).toContain('"route":"/payledger/{tenant}/runs/{id}/approve"')
  expect(text).toContain('"code":"transaction_refused"')
  for (const secret of [tenant, actor, 'clicked', 'XX00', '3818750', 'employees']) expect(text).not.toContain(secret)
})
