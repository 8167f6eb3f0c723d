import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { afterAnswer, formatCarried, parseCarried } from './hops.ts'
import { noCookies, readCookies, writeCookies } from './session-cookies.ts'

/** A token of this test is what it has seen: numbers of writes. A gateway joins what it is sent and adds a write. */
const tokenOf = (seen: ReadonlySet<number>) => [...seen].toSorted((a, b) => a - b).join('_')
const seenBy = (tokens: readonly string[]) => new Set(tokens.flatMap((token) => token.split('_').map(Number)))

/** Calls that begin and end in any order, each as the number of calls that begin before the next one ends. */
const callings = fc.array(fc.record({ isBegin: fc.boolean(), which: fc.nat() }), { maxLength: 40 })

describe('H1, H2: whatever was answered is in what is carried, in whatever order calls begin and end', () => {
  test('in a header', () => {
    fc.assert(
      fc.property(callings, (calls) => {
        let carried: readonly string[] = []
        let write = 0
        const told = new Set<number>()
        const underway: { sent: readonly string[]; token: string; write: number }[] = []
        for (const { isBegin, which } of calls) {
          if (isBegin || underway.length === 0) {
            const sent = parseCarried(formatCarried(carried))
            write += 1
            underway.push({ sent, token: tokenOf(new Set([...seenBy(sent), write])), write })
            continue
          }
          const [ended] = underway.splice(which % underway.length, 1)
          if (ended === undefined) continue
          carried = afterAnswer(carried, ended.sent, [ended.token])
          told.add(ended.write)
          expect([...told].filter((one) => !seenBy(carried).has(one))).toEqual([])
        }
      }),
    )
  })

  test('in a browser that knows only cookies', () => {
    fc.assert(
      fc.property(callings, (calls) => {
        const jar = new Map<string, string>()
        let write = 0
        const told = new Set<number>()
        const underway: { cookies: string; write: number }[] = []
        for (const { isBegin, which } of calls) {
          if (isBegin || underway.length === 0) {
            write += 1
            underway.push({ cookies: [...jar].map(([name, value]) => `${name}=${value}`).join('; '), write })
            continue
          }
          const [ended] = underway.splice(which % underway.length, 1)
          if (ended === undefined) continue
          const before = readCookies(ended.cookies, {})
          expect(before.missing).toBe(0)
          const token = `${'x'.repeat(12)}_${tokenOf(new Set([...seenBy(before.carried.map(body)), ended.write]))}`
          for (const cookie of writeCookies(before, [signed(token)], {})) keep(jar, cookie)
          told.add(ended.write)
          const carried = readCookies([...jar].map(([name, value]) => `${name}=${value}`).join('; '), {}).carried
          expect([...told].filter((one) => !seenBy(carried.map(body)).has(one))).toEqual([])
        }
      }),
    )
  })

  test('one token in place of a set loses a write', () => {
    const [first, second] = [tokenOf(new Set([1])), tokenOf(new Set([2]))]
    expect(seenBy([second]).has(1)).toBe(false)
    expect(afterAnswer(afterAnswer([], [], [first]), [], [second])).toEqual([first, second])
  })
})

test('H4: a cookie that the browser did not send is seen by the count', () => {
  const [cookie, other, count] = writeCookies(noCookies, [signed('a'), signed('b')], {}).map(
    (text) => text.split(';')[0],
  )
  expect(readCookies(`${cookie}; ${other}; ${count}`, {}).missing).toBe(0)
  expect(readCookies(`${other}; ${count}`, {})).toEqual({ carried: [signed('b')], missing: 1, ignored: [] })
  expect(readCookies(undefined, {})).toEqual(noCookies)
})

test.each([
  ['the name of another token', `holdfast_session.${'z'.repeat(12)}=${signed('a')}`],
  ['a value that is no base64url', 'holdfast_session.no.signature=no.signature'],
  ['no value', 'holdfast_session.='],
])('H4: a cookie with %s is told, not sent on, and deleted by its own name', (_, planted) => {
  const [kept, count] = writeCookies(noCookies, [signed('a')], {}).map((text) => text.split(';')[0])
  const [name] = planted.split('=')
  const read = readCookies(`${planted}; ${kept}; ${count}`, {})
  expect(read).toEqual({ carried: [signed('a')], missing: 0, ignored: [name] })
  expect(writeCookies(read, read.carried, {})).toContainEqual(expect.stringContaining(`${name}=; Max-Age=0; `))
})

test('cookies are for no script, for one site, and for TLS, unless it is said otherwise', () => {
  const [cookie = ''] = writeCookies(noCookies, [signed('a')], {})
  expect(cookie).toContain('; HttpOnly; SameSite=Lax; Secure')
  const [open = ''] = writeCookies(noCookies, [signed('a')], { secure: false, path: '/app' })
  expect(open).not.toContain('Secure')
  expect(open).toContain('; Path=/app;')
})

test('what does not change sets no cookie', () => {
  const carried = [signed('a')]
  expect(writeCookies({ ...noCookies, carried }, carried, {})).toEqual([])
})

/** Names of cookies are made of the end of a token, where its signature is. */
function signed(text: string): string {
  let hash = 7
  for (const char of text) hash = (hash * 31 + char.charCodeAt(0)) % 2 ** 31
  return `${text}-${hash.toString(36).padStart(12, '0')}`
}

function body(token: string): string {
  return (token.split('-')[0] ?? '').replace(/^x*_/, '')
}

function keep(jar: Map<string, string>, cookie: string): void {
  const [pair = ''] = cookie.split(';')
  const [name, value] = [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]
  if (cookie.includes('Max-Age=0')) jar.delete(name)
  else jar.set(name, value)
}
