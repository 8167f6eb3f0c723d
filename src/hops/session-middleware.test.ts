import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import type { ErrorCode } from '../base/errors.ts'
import { errorTable, HoldfastError } from '../base/errors.ts'
import type { Loss } from './hops.ts'
import { endsSession, sessionHeader } from './hops.ts'
import { SessionCarrier } from './session-carrier.ts'
import { sessionFetch } from './session-fetch.ts'
import { sessionMiddleware, type SessionMiddlewareOptions, sessionOf } from './session-middleware.ts'

type Handle = (request: IncomingMessage, answer: ServerResponse, carrier: SessionCarrier) => void | Promise<void>

const closers: (() => void)[] = []
afterEach(() => closers.splice(0).forEach((close) => close()))

async function serve(handle: (request: IncomingMessage, answer: ServerResponse) => void): Promise<string> {
  const server = createServer(handle)
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  closers.push(() => server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function hop(handle: Handle, options: SessionMiddlewareOptions = {}): Promise<string> {
  const carry = sessionMiddleware(options)
  return serve((request, answer) => carry(request, answer, () => void handle(request, answer, sessionOf(request))))
}

/** Answers like a gateway: each request gets a token of its own. */
function gateway(asked: (string | undefined)[] = [], headers: Record<string, string> = {}): Promise<string> {
  let number = 0
  return serve((request, answer) => {
    asked.push(request.headers['holdfast-session'] as string | undefined)
    answer.writeHead(200, { [sessionHeader]: `token-${++number}`, ...headers }).end('{}')
  })
}

describe('a program between a browser and a gateway', () => {
  test('hands on what it is sent, and what calls at the same time gave', async () => {
    const asked: (string | undefined)[] = []
    const upstream = await gateway(asked)
    const url = await hop(async (_, answer, carrier) => {
      const call = sessionFetch({ origins: [upstream], carrier })
      await Promise.all([call(`${upstream}/a`), call(`${upstream}/b`)])
      answer.end('done')
    })
    const answer = await fetch(url, { headers: { [sessionHeader]: 'old' } })
    expect(asked).toEqual(['old', 'old'])
    expect(answer.headers.get(sessionHeader)).toBe('token-1, token-2')
    await fetch(url, { headers: { [sessionHeader]: answer.headers.get(sessionHeader) ?? '' } })
    expect(asked.slice(2)).toEqual(['token-1, token-2', 'token-1, token-2'])
  })

  test.each([
    ['end', (answer: ServerResponse) => void answer.end('x')],
    ['write', (answer: ServerResponse) => void (answer.write('x'), answer.end())],
    [
      'writeHead with an object',
      (answer: ServerResponse) => void answer.writeHead(201, { 'set-cookie': 'own=1' }).end(),
    ],
    [
      'writeHead with a list',
      (answer: ServerResponse) => void answer.writeHead(201, ['set-cookie', 'own=1', 'set-cookie', 'own=2']).end(),
    ],
    [
      'writeHead with a reason',
      (answer: ServerResponse) => void answer.writeHead(201, 'Made', { 'set-cookie': ['own=1'] }).end(),
    ],
    ['setHeader', (answer: ServerResponse) => void answer.setHeader('Set-Cookie', 'own=1').end()],
  ])('answers by %s, and its own cookies stay', async (_, end) => {
    const url = await hop(
      (_request, answer, carrier) => {
        carrier.include(['learned'])
        end(answer)
      },
      { cookies: { secure: false } },
    )
    const answer = await fetch(url)
    expect(answer.headers.get(sessionHeader)).toBe('learned')
    const cookies = answer.headers.getSetCookie()
    expect(cookies.some((cookie) => cookie.startsWith('holdfast_session.learned=learned;'))).toBe(true)
    expect(cookies.some((cookie) => cookie.startsWith('own=1'))).toBe(!['end', 'write'].includes(_))
  })

  test.each([
    [undefined, 'private'],
    ['public, max-age=60', 'private, max-age=60'],
    ['Public, Max-Age=60', 'private, Max-Age=60'],
    ['max-age=0, S-MaxAge=60', 'private, max-age=0'],
    ['no-cache', 'private, no-cache'],
    ['public, no-cache', 'private, no-cache'],
    ['public, max-age=3600, no-cache="Set-Cookie"', 'private, max-age=3600, no-cache="Set-Cookie"'],
    ['max-age=60, private="x"', 'private, max-age=60'],
    ['Private="a, private, b", max-age=60', 'private, max-age=60'],
    ['x="no-store, \\", private", public', 'private, x="no-store, \\", private"'],
    ['max-age=60, x-no-store', 'private, max-age=60, x-no-store'],
    ['private, public, s-maxage=9', 'private'],
    ['Private, max-age=60', 'Private, max-age=60'],
    ['No-Store', 'No-Store'],
    [['no-cache', 'no-store'], 'no-cache, no-store'],
  ])('an answer with a token is for nobody else: to %j a shared cache hears %j', async (said, heard) => {
    const url = await hop((_request, answer, carrier) => {
      carrier.include(['token'])
      if (said !== undefined) answer.setHeader('Cache-Control', said)
      answer.end()
    })
    expect((await fetch(url)).headers.get('cache-control')).toBe(heard)
  })

  test('an answer without a token says nothing', async () => {
    const url = await hop((_request, answer) => void answer.end(), { cookies: {} })
    const answer = await fetch(url)
    expect(answer.headers.get(sessionHeader)).toBeNull()
    expect(answer.headers.getSetCookie()).toEqual([])
    expect(answer.headers.get('cache-control')).toBeNull()
  })
})

describe('H4: what is lost is told', () => {
  test('an answer that has left before its work had', async () => {
    const losses: Loss[] = []
    const url = await hop(
      (_request, answer, carrier) => {
        answer.end()
        carrier.answered([], ['late'])
      },
      { onLoss: (loss) => losses.push(loss) },
    )
    await fetch(url)
    expect(losses).toEqual([{ reason: 'answer already sent', tokens: 1, detail: '' }])
  })

  test('a proxy that strips the header; the token that was sent stays', async () => {
    const losses: Loss[] = []
    const upstream = await serve((_, answer) => void answer.end())
    const carrier = new SessionCarrier({ carried: ['kept'], onLoss: (loss) => losses.push(loss) })
    await sessionFetch({ origins: [upstream], carrier })(upstream)
    expect(losses).toEqual([{ reason: 'answer without token', tokens: 1, detail: upstream }])
    expect(carrier.session).toBe('kept')
  })

  test('a failure has no token, and is no loss', async () => {
    const losses: Loss[] = []
    const upstream = await serve((_, answer) => void answer.writeHead(503).end())
    const carrier = new SessionCarrier({ carried: ['kept'], onLoss: (loss) => losses.push(loss) })
    await sessionFetch({ origins: [upstream], carrier })(upstream)
    expect([losses, carrier.session]).toEqual([[], 'kept'])
  })

  test('H5: a refused token is let go of, and what others gave meanwhile is not', async () => {
    const losses: Loss[] = []
    const upstream = await serve(
      (_, answer) => void answer.writeHead(409, { 'Holdfast-Session-Refused': 'write_lost' }).end(),
    )
    const carrier = new SessionCarrier({ carried: ['gone'], onLoss: (loss) => losses.push(loss) })
    const asking = sessionFetch({ origins: [upstream], carrier })(upstream)
    carrier.answered([], ['other'])
    await asking
    expect(carrier.session).toBe('other')
    expect(losses).toEqual([{ reason: 'refused', tokens: 1, detail: 'write_lost' }])
  })

  test('H5: tokens that are too many for a server are let go of', async () => {
    const losses: Loss[] = []
    const upstream = await serve((_, answer) => void answer.writeHead(431).end())
    const carrier = new SessionCarrier({ carried: ['a', 'b'], onLoss: (loss) => losses.push(loss) })
    await sessionFetch({ origins: [upstream], carrier })(upstream)
    expect(carrier.carried).toEqual([])
    expect(losses).toEqual([{ reason: 'refused', tokens: 2, detail: 'headers too large' }])
  })

  test('a request that did not pass the middleware has no carrier', () => {
    expect(() => sessionOf({})).toThrow('did not pass the session middleware')
  })
})

test('H3: a token goes to the named origins and to no other', async () => {
  const asked: (string | undefined)[] = []
  const [named, other] = [await gateway([]), await gateway(asked)]
  const call = sessionFetch({ origins: [named], carrier: new SessionCarrier({ carried: ['secret'] }) })
  await call(`${other}/${named}`)
  await call(new Request(other, { headers: { accept: '*/*' } }))
  expect(asked).toEqual([undefined, undefined])
})

test('a fetch without a carrier has one of its own; headers and bodies of the caller stay', async () => {
  const asked: IncomingMessage['headers'][] = []
  const upstream = await serve((request, answer) => {
    asked.push(request.headers)
    answer.writeHead(200, { [sessionHeader]: 'mine' }).end()
  })
  const call = sessionFetch({ origins: [upstream] })
  await call(new Request(upstream, { method: 'POST', body: 'x', headers: { 'x-own': '1' } }))
  await call(upstream, { headers: { 'x-own': '2' } })
  expect(asked.map((headers) => [headers['x-own'], headers['holdfast-session']])).toEqual([
    ['1', undefined],
    ['2', 'mine'],
  ])
})

test('work of this program takes the session and gives one', async () => {
  const carrier = new SessionCarrier({ carried: ['a', 'b'] })
  const seen: (string | undefined)[] = []
  const outcome = await carrier.carry((session) => {
    seen.push(session)
    return Promise.resolve({ session: 'joined', value: 1 })
  })
  expect([outcome.value, seen, carrier.carried]).toEqual([1, ['a, b'], ['joined']])
})

describe('H5: work of this program whose tokens are refused', () => {
  const codes = Object.keys(errorTable) as ErrorCode[]

  test.each(codes)(
    'with %s lets go of them, counted, where the code ends a session, and of no others',
    async (code) => {
      const losses: Loss[] = []
      const carrier = new SessionCarrier({ carried: ['gone'], onLoss: (loss) => losses.push(loss) })
      const error = new Error('by a query builder', { cause: new HoldfastError(code, 'x') })
      const working = carrier.carry(() => Promise.reject(error))
      carrier.answered([], ['other'])
      await expect(working).rejects.toBe(error)
      const ends = endsSession.has(code)
      expect(carrier.carried).toEqual(ends ? ['other'] : ['gone', 'other'])
      expect(losses).toEqual(ends ? [{ reason: 'refused', tokens: 1, detail: code }] : [])
    },
  )

  test('a defect takes nothing away', async () => {
    const carrier = new SessionCarrier({ carried: ['kept'] })
    await expect(carrier.carry(() => Promise.reject(new Error('x')))).rejects.toThrow('x')
    expect(carrier.carried).toEqual(['kept'])
  })
})
