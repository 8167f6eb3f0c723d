import { assert } from './base/assert.ts'
import { silentProgress } from './base/progress.ts'
import type { Fleet } from './fleet/fleet-api.ts'
import { Gateway } from './fleet/gateway.ts'
import type { LinkCount } from './fleet/link-network.ts'
import type { UncheckedAnswer, UncheckedRequest } from './reading/unchecked.ts'
import { readUnchecked as readUncheckedOn } from './reading/unchecked.ts'

/**
 * Faults for the tests of those who build on Holdfast, on an embedded fleet: hold a follower back, cut a link, kill a
 * node, and count what crossed a link. Nothing here is reachable from the library itself.
 */
export interface Faults {
  /** The follower goes on receiving and stops replaying: what it shows stays as it is. */
  holdBack(node: string): Promise<void>
  release(node: string): Promise<void>
  /** Bytes between two regions stop, in one direction seen from `from`, or both. Connections stay as they are. */
  cutLink(from: string, to: string, direction?: 'both' | 'to' | 'from'): Promise<void>
  healLink(from: string, to: string): Promise<void>
  /** Crashes a node's server, as `kill -9` of all its processes; it stays down until `restartNode`. */
  killNode(node: string): Promise<void>
  restartNode(node: string): Promise<void>
  /** What crossed the links since the last reset. A flight of statements is one round trip; exact while links delay. */
  linkCounts(): Promise<readonly LinkCount[]>
  resetLinkCounts(): Promise<void>
}

export type { LinkCount, UncheckedAnswer, UncheckedRequest }

/**
 * What a node would show a reader who asks for no proof, to set beside what `fleet.read` answers. Row-level security
 * holds all the same. Throws `unknown_node`, `node_unavailable`, and what a statement throws.
 */
export function readUnchecked<R = Record<string, unknown>>(
  fleet: Fleet,
  request: UncheckedRequest,
): Promise<UncheckedAnswer<R>> {
  assert(fleet instanceof Gateway, 'unchecked reads are for a fleet that openFleet gave')
  return readUncheckedOn<R>(fleet.parts.reading, request)
}

/** The faults of a fleet that `openFleet` gave. */
export function faultsOf(fleet: Fleet): Faults {
  assert(fleet instanceof Gateway, 'faults are for a fleet that openFleet gave')
  const ask = (method: string, params: object = {}) => fleet.parts.call(method, params, silentProgress)
  return {
    holdBack: async (node) => void (await ask('node.hold', { node })),
    release: async (node) => void (await ask('node.release', { node })),
    cutLink: async (from, to, direction = 'both') => void (await ask('links.cut', { from, to, direction })),
    healLink: async (from, to) => void (await ask('links.heal', { from, to })),
    killNode: async (node) => void (await ask('node.kill', { node })),
    restartNode: async (node) => void (await ask('node.restart', { node })),
    linkCounts: async () => (await ask('links.counts')) as readonly LinkCount[],
    resetLinkCounts: async () => void (await ask('links.reset')),
  }
}
