import { hash } from 'node:crypto'
import { assert, present } from '../base/assert.ts'
import type { MacKey } from './mac.ts'
import { macKey } from './mac.ts'
import type { TokenScope } from './token.ts'

/** What a token is bound to beside its fleet; a bit each. */
export const binding = { tenant: 1, credential: 2 } as const

export const hintBytes = 2
const secretBytesMin = 32
const boundsMax = 1_000
/** Longer names are bound and not kept: they come from whoever asks, before anything of the token is believed. */
const keptCharsMax = 512

/** What the tokens of one scope have in common: its hints, and how its names go into the MAC. */
export interface Bound {
  readonly fleet: string
  readonly tenant: string | undefined
  readonly credential: string | undefined
  readonly hints: Buffer
  readonly names: Buffer
  /** Made for each secret once. */
  readonly keys: WeakMap<Uint8Array, MacKey>
}

/** What a token with these bindings is bound to in a scope, which has the names that they ask for. */
export function boundOf(bindings: number, scope: TokenScope): Bound {
  const { fleet } = scope
  const tenant = (bindings & binding.tenant) === 0 ? undefined : present(scope.tenant, () => 'the scope has a tenant')
  const credential =
    (bindings & binding.credential) === 0 ? undefined : present(scope.credential, () => 'the scope has a credential')
  return bounds.get(fleet, tenant, credential)
}

export function keyOf(secret: Uint8Array, { names, keys }: Bound): MacKey {
  const known = keys.get(secret)
  if (known !== undefined) return known
  assert(secret.length >= secretBytesMin, `a token key has at least ${secretBytesMin} bytes`)
  const key = macKey(secret, names)
  keys.set(secret, key)
  return key
}

/** Decides nothing: it tells a token of someone else from a forged one. */
export function hintOf(kind: 'fleet' | 'tenant' | 'credential', name: string): Buffer {
  return hash('sha256', `${kind} ${name}`, 'buffer').subarray(0, hintBytes)
}

/**
 * The last bounds, by the name that tells most. A scope comes with each request, and to put its names together into one key costs
 * more than to compare them.
 */
class Bounds {
  readonly #byName = new Map<string, Bound[]>()
  #kept = 0

  get(fleet: string, tenant: string | undefined, credential: string | undefined): Bound {
    const name = credential ?? tenant ?? fleet
    const alike = this.#byName.get(name) ?? []
    for (const one of alike) {
      if (one.fleet === fleet && one.tenant === tenant && one.credential === credential) return one
    }
    const bound = makeBound(fleet, tenant, credential)
    if (fleet.length + (tenant?.length ?? 0) + (credential?.length ?? 0) > keptCharsMax) return bound
    if (this.#kept === boundsMax) {
      this.#byName.clear()
      this.#kept = 0
    }
    this.#kept += 1
    this.#byName.set(name, [...alike, bound])
    return bound
  }
}

/** By kind, so that no tenant can pass for a credential, and with their lengths in the MAC, so that none can pass for two. */
function makeBound(fleet: string, tenant: string | undefined, credential: string | undefined): Bound {
  const hints: Buffer[] = []
  const names: Buffer[] = []
  const bind = (kind: 'fleet' | 'tenant' | 'credential', name: string | undefined) => {
    if (name === undefined) return
    hints.push(hintOf(kind, name))
    const bytes = Buffer.from(`${kind} ${name}`)
    const length = Buffer.alloc(4)
    length.writeUInt32BE(bytes.length)
    names.push(length, bytes)
  }
  bind('fleet', fleet)
  bind('tenant', tenant)
  bind('credential', credential)
  return { fleet, tenant, credential, hints: Buffer.concat(hints), names: Buffer.concat(names), keys: new WeakMap() }
}

const bounds = new Bounds()
