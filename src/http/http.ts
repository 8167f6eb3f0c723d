import type { Context } from 'hono'
import { Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import type { ContentfulStatusCode, StatusCode } from 'hono/utils/http-status'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import { HoldfastError, isHoldfastError } from '../base/errors.ts'
import type { Metrics } from '../base/metrics.ts'
import { silentMetrics } from '../base/metrics.ts'
import type { Fleet } from '../fleet/fleet-api.ts'
import { endsSession, refusedHeader, sessionHeader } from '../hops/hops.ts'
import type { Served } from '../reading/served.ts'
import type { AppRequest, AppResponse, AppRoute } from './app-route.ts'
import { reservedPaths } from './app-route.ts'
import { isNestedDeeper, toJson } from './json.ts'
import { openApiOf } from './openapi.ts'
import type { Problem } from './problem.ts'
import { problemContentType, problemOf, problemOfAnswer, retryAfterSeconds } from './problem.ts'
import { apiRoutes } from './routes.ts'

/**
 * A fleet over HTTP: the API under `/v1`, the routes of the application, and what machines ask (`/healthz`, `/readyz`,
 * `/metrics`, `/openapi.json`).
 *
 * It adds nothing to what the library promises and keeps no state: the session travels as a header both ways, an
 * idempotency key comes as a header, errors become problem documents. Whoever serves the next request may be another
 * gateway.
 *
 *   W1  Every answer that is not a success is a problem document with `code`, `category` and `retry`, that of a route of the
 *       application as well. No such route stands before one of Holdfast's.
 *   W2  No outcome that is unknown is told with a status that proxies repeat by themselves.
 *   W3  The log has routes, statuses, codes, times and the names of the fields of a failure: no address, no value of a body, no
 *       message that could hold a tenant's field.
 *   W4  A request with a body says that it is JSON, so that no page of another origin can send one unasked.
 *   W5  A session is handed on or its loss is told: what a route gives no successor for goes back as it came, and where the
 *       route should have given one that is counted in `session_lost_total`; a refused one has its code in a header.
 */
export interface HttpOptions {
  readonly fleet: Fleet
  readonly appRoutes: readonly AppRoute[]
  readonly registry: Pick<Registry, 'metrics' | 'contentType'>
  readonly metrics?: Metrics
  readonly logger: Pick<Logger, 'info' | 'error'>
  readonly clock?: Clock
}

/** Larger batches belong into several transactions. */
export const bodyBytesMax = 1024 * 1024

/** Who checks or writes a value calls himself for each level of it, and the stack ends at some thousand. */
export const bodyLevelsMax = 100

export function createHttpApp(options: HttpOptions): Hono {
  const { fleet, registry } = options
  const app = new Hono()
  app.use(bodyLimit({ maxSize: bodyBytesMax, onError: refuseTooLarge }))
  for (const route of apiRoutes) mount(app, route, options)
  const openApi = toJson(openApiOf(apiRoutes))
  app.get('/openapi.json', (c) => c.body(openApi, 200, { 'content-type': 'application/json' }))
  app.get('/healthz', (c) => c.json({ ok: true }))
  app.get('/readyz', async (c) => {
    const { ready } = await fleet.status()
    return c.json({ ready }, ready ? 200 : 503)
  })
  app.get('/metrics', async (c) => c.body(await registry.metrics(), 200, { 'content-type': registry.contentType }))
  // Behind those of Holdfast, of which a path with names in braces might take one.
  for (const path of reservedPaths) app.all(path.endsWith('/') ? `${path}*` : path, noRoute)
  for (const route of options.appRoutes) mount(app, route, options)
  app.notFound(noRoute)
  app.onError((error, c) => {
    logFailure(options.logger, error)
    return problemAnswer(c, error)
  })
  return app
}

function noRoute(c: Context): Response {
  return problemAnswer(
    c,
    new HoldfastError('unknown_route', `no route ${c.req.method} ${c.req.path}`, { hint: '/openapi.json lists them' }),
  )
}

function mount(app: Hono, route: AppRoute, options: HttpOptions): void {
  const { fleet, logger, clock = systemClock, metrics = silentMetrics } = options
  const pattern = route.path.replaceAll(/\{(\w+)\}/g, ':$1')
  app.on(route.method, pattern, async (c) => {
    const started = clock.monotonicMs()
    let response: Response
    let code: string | undefined
    // A problem too: a cache would go on saying that what is there by now is not found.
    if (route.session !== false || c.req.header(sessionHeader) !== undefined) keepFromCaches(c)
    try {
      const request = await requestOf(c, fleet)
      const answer = await route.handle(request)
      if (isLost(route, request, answer)) metrics.count('session_lost_total', { route: route.path })
      const problem = answer.status >= 400 ? problemOfAnswer(answer.status, answer.body) : undefined
      if (answer.status >= 500) logAnswer(logger, route, answer)
      code = problem?.code
      response = answerOf(c, { ...answer, session: answer.session ?? request.session }, problem)
    } catch (error) {
      logFailure(logger, error)
      code = problemOf(error).code
      response = problemAnswer(c, error)
    }
    const tookMs = Math.round(clock.monotonicMs() - started)
    logger.info({ method: route.method, route: route.path, status: response.status, code, tookMs }, 'request')
    return response
  })
}

async function requestOf(c: Context, fleet: Fleet): Promise<AppRequest> {
  return {
    fleet,
    params: c.req.param(),
    query: c.req.query(),
    body: await bodyOf(c),
    session: c.req.header(sessionHeader),
    idempotencyKey: idempotencyKeyOf(c.req.header('idempotency-key')),
  }
}

function isLost(route: AppRoute, request: AppRequest, answer: AppResponse): boolean {
  return request.session !== undefined && answer.session === undefined && route.session !== false
}

/** W4. */
async function bodyOf(c: Context): Promise<unknown> {
  const text = await c.req.text()
  if (text === '') return undefined
  const type = c.req.header('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (type !== 'application/json') {
    throw new HoldfastError('argument_invalid', `the body is ${type ?? 'of no type'}, not application/json`, {
      hint: 'send the header Content-Type: application/json',
    })
  }
  const body = parsed(text)
  if (isNestedDeeper(body, bodyLevelsMax)) {
    throw new HoldfastError('argument_invalid', `the body is nested deeper than ${bodyLevelsMax} levels`, {
      hint: 'send what lies deeper as text',
    })
  }
  return body
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new HoldfastError('argument_invalid', 'the body is not JSON', { cause })
  }
}

const idempotencyKeyLengthMax = 255

function idempotencyKeyOf(header: string | undefined): string | undefined {
  if (header === undefined || (header !== '' && header.length <= idempotencyKeyLengthMax)) return header
  throw new HoldfastError('argument_invalid', `an Idempotency-Key has 1 to ${idempotencyKeyLengthMax} characters`)
}

/** Statuses of answers that have no body. One that is given all the same is left out: the work behind the answer is done. */
const bodilessStatuses: ReadonlySet<number> = new Set([204, 205, 304])

function answerOf(c: Context, { status, body, session, served }: AppResponse, problem?: Problem): Response {
  if (session !== undefined) {
    c.header(sessionHeader, session)
    keepFromCaches(c)
  }
  if (served !== undefined && served.length > 0) describeServed(c, served)
  if (problem !== undefined) return problemResponse(c, problem)
  if (body === undefined || bodilessStatuses.has(status)) return c.body(null, status as StatusCode)
  return c.body(toJson(body), status as ContentfulStatusCode, { 'content-type': 'application/json' })
}

/** An answer out of a cache would hand its session on, or show it less than it has seen. */
function keepFromCaches(c: Context): void {
  c.header('Cache-Control', 'private, no-store')
  c.header('Vary', sessionHeader)
}

function describeServed(c: Context, served: readonly Served[]): void {
  c.header('Holdfast-Served-By', served.map(({ node }) => node).join(', '))
  c.header('Holdfast-Applied-Through', served.map(({ appliedThrough }) => appliedThrough).join(', '))
  c.header('Holdfast-Waited-Ms', served.map(({ waitedMs }) => String(Math.round(waitedMs))).join(', '))
}

function problemAnswer(c: Context, error: unknown, status?: number): Response {
  return problemResponse(c, problemOf(error, status))
}

function problemResponse(c: Context, problem: Problem): Response {
  if (c.req.header(sessionHeader) !== undefined && endsSession.has(problem.code)) {
    c.header(refusedHeader, problem.code)
  }
  const wait = retryAfterSeconds(problem)
  if (wait !== undefined) c.header('Retry-After', String(wait))
  return c.body(toJson(problem), problem.status as ContentfulStatusCode, { 'content-type': problemContentType })
}

/** The body is not read to its end, so nothing else can follow on this connection. */
function refuseTooLarge(c: Context): Response {
  c.header('Connection', 'close')
  const error = new HoldfastError('argument_invalid', `the body is larger than ${bodyBytesMax} bytes`, {
    hint: 'send it in several transactions',
  })
  return problemAnswer(c, error, 413)
}

/** W3: what it is that the answer keeps to itself, without a value of it. */
function logAnswer(
  logger: HttpOptions['logger'],
  { method, path: route }: AppRoute,
  { status, body }: AppResponse,
): void {
  if (body instanceof Error) logFailure(logger, body)
  const fields = typeof body === 'object' && body !== null ? Object.keys(body) : typeof body
  logger.error({ method, route, status, body: fields }, 'a route of the application answered with a failure')
}

/** W3: of a defect the place, not the message, which may quote what a statement was given. */
function logFailure(logger: HttpOptions['logger'], error: unknown): void {
  if (isHoldfastError(error) && error.category !== 'internal') return
  const stack = error instanceof Error ? error.stack?.split('\n').filter((line) => /^\s+at /.test(line)) : undefined
  logger.error({ error: error instanceof Error ? error.name : typeof error, stack }, 'a request failed on a defect')
}
