import type { Carried } from './hops.ts'
import { together } from './hops.ts'

/**
 * The set in a browser's cookies: one cookie a token, under a name that is the token's own. Answers that arrive at the same
 * time each take away what their request carried and add what they give, so none wipes out another (H1). One more cookie
 * says how many there should be, by which a loss is seen (H4).
 */
export interface CookieOptions {
  /** The beginning of the names. `holdfast_session` when left out. */
  readonly name?: string | undefined
  /** Only over TLS. True when left out. */
  readonly secure?: boolean | undefined
  readonly sameSite?: 'Lax' | 'Strict' | 'None' | undefined
  readonly path?: string | undefined
  readonly domain?: string | undefined
  /** Seconds; a token is refused after a day, so a cookie need not live longer. */
  readonly maxAge?: number | undefined
}

export interface CookiesReceived {
  readonly carried: Carried
  /** How many tokens the browser was given and did not send. */
  readonly missing: number
  /** Names of cookies that no answer of this program set: what they hold is no token, or has another name. */
  readonly ignored: readonly string[]
}

export const noCookies: CookiesReceived = { carried: [], missing: 0, ignored: [] }

const nameDefault = 'holdfast_session'
const daySeconds = 86_400
/** The end of a token is its signature: as good as random, and the same for the same token. */
const nameTail = 12

export function readCookies(header: string | undefined, { name = nameDefault }: CookieOptions): CookiesReceived {
  const pairs = (header ?? '').split(';').flatMap((text) => {
    const [pair, at] = [text.trim(), text.trim().indexOf('=')]
    return at > 0 ? [[pair.slice(0, at), pair.slice(at + 1)] as const] : []
  })
  const isToken = (cookie: string, value: string) => /^[\w-]+$/.test(value) && cookie === cookieOf(name, value)
  const tokens = pairs.filter(([cookie]) => cookie.startsWith(`${name}.`))
  const carried = together(tokens.flatMap(([cookie, value]) => (isToken(cookie, value) ? [value] : [])))
  const ignored = together(tokens.flatMap(([cookie, value]) => (isToken(cookie, value) ? [] : [cookie])))
  const counts = pairs.flatMap(([cookie, value]) => (cookie === name ? [Number(value)] : []))
  const given = Math.max(0, ...counts.filter(Number.isSafeInteger))
  return { carried, missing: Math.max(0, given - carried.length - ignored.length), ignored }
}

/** The `Set-Cookie` headers that turn what the browser sent into what is carried now; none where they are the same. */
export function writeCookies(before: CookiesReceived, carried: Carried, options: CookieOptions): string[] {
  const { name = nameDefault, maxAge = daySeconds } = options
  const gone = before.carried.filter((token) => !carried.includes(token))
  const added = carried.filter((token) => !before.carried.includes(token))
  if (gone.length === 0 && added.length === 0 && before.missing === 0 && before.ignored.length === 0) return []
  const deleted = together([...gone.map((token) => cookieOf(name, token)), ...before.ignored])
  const attributes = attributesOf(options)
  return [
    ...deleted.map((cookie) => `${cookie}=; Max-Age=0${attributes}`),
    ...added.map((token) => `${cookieOf(name, token)}=${token}; Max-Age=${maxAge}${attributes}`),
    `${name}=${carried.length}; Max-Age=${maxAge}${attributes}`,
  ]
}

function cookieOf(name: string, token: string): string {
  return `${name}.${token.slice(-nameTail)}`
}

/** No script of the page may read a token. */
function attributesOf({ secure = true, sameSite = 'Lax', path = '/', domain }: CookieOptions): string {
  const of = domain === undefined ? '' : `; Domain=${domain}`
  return `; Path=${path}${of}; HttpOnly; SameSite=${sameSite}${secure ? '; Secure' : ''}`
}
