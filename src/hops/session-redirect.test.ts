import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterEach, describe, expect, test } from 'vitest'
import { eventually } from '../../test/support/eventually.ts'
import { copiedBytesMax } from './body-copy.ts'
import type { Loss } from './hops.ts'
import { refusedHeader, sessionHeader } from './hops.ts'
import { SessionCarrier } from './session-carrier.ts'
import { sessionFetch } from './session-fetch.ts'

const closers: (() => void)[] = []
afterEach(() => closers.splice(0).forEach((close) => close()))

interface Seen {
  readonly path: string
  readonly method: string
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

/** Every request is kept, then answered. */
async function serve(answerTo: (answer: ServerResponse, path: string) => void) {
  const seen: Seen[] = []
  const server = createServer((request, answer) => {
    const { url: path = '', method = '', headers } = request
    void text(request).then((body) => {
      seen.push({ path, method, headers, body })
      answerTo(answer, path)
    })
  })
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  closers.push(() => server.close())
  const tokens = () => seen.map(({ headers }) => headers['holdfast-session'])
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen, tokens }
}

const redirecting = (location: string, status = 302, headers: Record<string, string> = {}) =>
  serve((answer) => void answer.writeHead(status, { location, ...headers }).end('moved'))

function carrying(carried: readonly string[]) {
  const losses: Loss[] = []
  return { losses, carrier: new SessionCarrier({ carried, onLoss: (loss) => void losses.push(loss) }) }
}

describe('H3: a redirect takes no token to an origin that is not named', () => {
  test.each([
    ['a token', { [sessionHeader]: 'theirs' }],
    ['a refusal', { [refusedHeader]: 'write_lost' }],
    ['nothing', {}],
  ])('and %s of its answer is not believed, nor counted', async (_, headers) => {
    const other = await serve((answer) => void answer.writeHead(200, headers).end('other'))
    const named = await redirecting(other.url)
    const { carrier, losses } = carrying(['secret'])
    const answer = await sessionFetch({ origins: [named.url], carrier })(named.url)
    expect([await answer.text(), answer.redirected, answer.url]).toEqual(['other', true, `${other.url}/`])
    expect([named.tokens(), other.tokens()]).toEqual([['secret'], [undefined]])
    expect([carrier.carried, losses]).toEqual([['secret'], []])
  })

  test('and one that leads back to a named origin takes it along again', async () => {
    const target = await serve((answer) => void answer.writeHead(200, { [sessionHeader]: 'next' }).end())
    const other = await redirecting(target.url, 302, { [sessionHeader]: 'theirs' })
    const named = await redirecting(other.url)
    const { carrier, losses } = carrying(['secret'])
    await sessionFetch({ origins: [named.url, target.url], carrier })(named.url)
    expect([named.tokens(), other.tokens(), target.tokens()]).toEqual([['secret'], [undefined], ['secret']])
    expect([carrier.carried, losses]).toEqual([['next'], []])
  })

  test('also where the caller set the header himself, at the first origin or a later one', async () => {
    const other = await serve((answer) => void answer.end())
    const named = await redirecting(other.url)
    const { carrier } = carrying([])
    const call = sessionFetch({ origins: [named.url], carrier })
    await call(named.url, { headers: { [sessionHeader]: 'own', 'x-own': '1' } })
    await call(new Request(other.url, { headers: { [sessionHeader]: 'own', 'x-own': '1' } }))
    expect(other.seen.map(({ headers }) => [headers['holdfast-session'], headers['x-own']])).toEqual([
      [undefined, '1'],
      [undefined, '1'],
    ])
    expect(carrier.carried).toEqual(['own'])
  })
})

test('H1: what an answer that redirects gives is carried by the request that follows it', async () => {
  const named = await serve((answer, path) => {
    if (path === '/page') answer.writeHead(200, { [sessionHeader]: 'read' }).end()
    else answer.writeHead(303, { location: '/page', [sessionHeader]: 'wrote' }).end()
  })
  const { carrier } = carrying(['old'])
  await sessionFetch({ origins: [named.url], carrier })(`${named.url}/save`, { method: 'POST', body: 'x' })
  expect([named.tokens(), carrier.carried]).toEqual([['old', 'wrote'], ['read']])
})

describe('redirects are followed as fetch follows them', () => {
  const statuses = [301, 302, 303, 307, 308]
  const methods = ['GET', 'HEAD', 'post', 'POST', 'PUT', 'DELETE']
  const own = { authorization: 'Bearer x', cookie: 'a=1', 'x-own': '1' }
  const forms = {
    'an init': (url: string, method: string, body: string | undefined): Parameters<typeof fetch> => [
      url,
      { method, headers: own, ...(body === undefined ? {} : { body }) },
    ],
    'a Request': (url: string, method: string, body: string | undefined): Parameters<typeof fetch> => [
      new Request(url, { method, headers: own, ...(body === undefined ? {} : { body }) }),
    ],
    'a form': (url: string, method: string, body: string | undefined): Parameters<typeof fetch> => [
      url,
      { method, headers: own, ...(body === undefined ? {} : { body: new URLSearchParams({ body }) }) },
    ],
  }
  const cases = Object.keys(forms).flatMap((form) => statuses.map((status) => [form, status] as const))

  test.each(cases)('with %s, at %i, by every method, to the same origin and to another', async (form, status) => {
    const other = await serve((answer) => void answer.end('there'))
    const named = await serve((answer, path) => {
      if (path === '/here') answer.end('here')
      else answer.writeHead(status, { location: path === '/away' ? `${other.url}/here` : 'here' }).end('moved')
    })
    const call = sessionFetch({ origins: [named.url] })
    for (const method of methods) {
      for (const from of ['/from', '/away']) {
        const body = /GET|HEAD/.test(method) ? undefined : 'x'
        const asked = async (by: typeof call) => {
          const answer = await by(...forms[form as keyof typeof forms](`${named.url}${from}`, method, body))
          const told = { text: await answer.text(), url: answer.url, redirected: answer.redirected }
          return { told, seen: [...named.seen.splice(0), ...other.seen.splice(0)].map(withoutConnection) }
        }
        const [byFetch, byUs] = [await asked(fetch), await asked(call)]
        expect(byUs).toEqual(byFetch)
        expect(byUs.seen).toHaveLength(2)
      }
    }
  })

  test('20 times, and no more', async () => {
    const named = await serve((answer, path) => {
      const left = Number(path.slice(1))
      if (left === 0) answer.end('done')
      else answer.writeHead(302, { location: `/${left - 1}` }).end()
    })
    const call = sessionFetch({ origins: [named.url] })
    expect(await (await call(`${named.url}/20`)).text()).toBe('done')
    await expect(call(`${named.url}/21`)).rejects.toThrow(TypeError)
    expect(named.seen).toHaveLength(42)
  })

  test('but a body that was a stream is not sent twice', async () => {
    const named = await redirecting('/there', 307)
    const body = () => new Blob(['x']).stream()
    const call = sessionFetch({ origins: [named.url] })
    await expect(call(named.url, { method: 'POST', body: body(), duplex: 'half' })).rejects.toThrow(TypeError)
    await expect(fetch(named.url, { method: 'POST', body: body(), duplex: 'half' })).rejects.toThrow(TypeError)
    expect(named.seen.map(({ path }) => path)).toEqual(['/', '/'])
  })

  test('nor one of a Request that is longer than what is kept of it', async () => {
    const named = await redirecting('/there', 307)
    const call = sessionFetch({ origins: [named.url] })
    const ask = (bytes: number) => call(new Request(named.url, { method: 'POST', body: new Uint8Array(bytes) }))
    await expect(ask(copiedBytesMax + 1)).rejects.toThrow(TypeError)
    expect(named.seen.map(({ path, body }) => [path, body.length])).toEqual([['/', copiedBytesMax + 1]])
  })

  test.each(['ftp://127.0.0.1/', 'http://'])('and not to %s', async (location) => {
    const named = await redirecting(location)
    await expect(sessionFetch({ origins: [named.url] })(named.url)).rejects.toThrow(TypeError)
  })

  test.each([
    ['an init', (url: string, init: RequestInit): Parameters<typeof fetch> => [url, init]],
    ['a Request', (url: string, init: RequestInit): Parameters<typeof fetch> => [new Request(url, init)]],
  ])('or not at all, where %s says so', async (_, asking) => {
    const named = await redirecting('/there', 302, { [sessionHeader]: 'next' })
    const { carrier } = carrying(['old'])
    const call = sessionFetch({ origins: [named.url], carrier })
    await expect(call(...asking(named.url, { redirect: 'error' }))).rejects.toThrow(TypeError)
    expect(carrier.carried).toEqual(['old'])
    expect((await call(...asking(named.url, { redirect: 'manual' }))).status).toBe(302)
    expect([carrier.carried, named.seen.length]).toEqual([['next'], 2])
  })
})

test('a body is sent on as it comes: of 64 MiB no more is kept than what a redirect may ask for again', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const heldBytes = () => {
    collect()
    return process.memoryUsage().arrayBuffers
  }
  const chunk = 1024 * 1024
  let left = 64
  const body = new ReadableStream({
    pull(controller) {
      left -= 1
      if (left < 0) controller.close()
      else controller.enqueue(new Uint8Array(chunk))
    },
  })
  const before = heldBytes()
  let sent = 0
  const send = async (input: string | URL | Request) => {
    for await (const part of (input as Request).body ?? []) sent += part.length
    await eventually(() => heldBytes() < before + 4 * chunk, 10_000)
    return new Response(null, { headers: { [sessionHeader]: 'next' } })
  }
  const call = sessionFetch({ origins: ['https://named.example'], fetch: send })
  await call(new Request('https://named.example/upload', { method: 'POST', body, duplex: 'half' }))
  expect(sent).toBe(64 * chunk)
})

test('a browser does not show where a redirect leads: the call fails, and what it hides is told', async () => {
  const hidden = Object.defineProperty(Response.error(), 'type', { value: 'opaqueredirect' })
  const asked: (string | undefined)[] = []
  const browser = (_: string | URL | Request, init?: RequestInit) => {
    asked.push(init?.redirect)
    return Promise.resolve(hidden)
  }
  const { carrier, losses } = carrying(['kept'])
  const call = sessionFetch({ origins: ['https://named.example'], carrier, fetch: browser })
  await expect(call('https://named.example/page')).rejects.toThrow(TypeError)
  expect([asked, carrier.carried]).toEqual([['manual'], ['kept']])
  expect(losses).toEqual([{ reason: 'answer without token', tokens: 1, detail: 'https://named.example' }])
  expect(await call('https://named.example/page', { redirect: 'manual' })).toBe(hidden)
})

function withoutConnection({ headers, ...seen }: Seen) {
  const { connection: _, ...kept } = headers
  return { ...seen, headers: kept }
}
