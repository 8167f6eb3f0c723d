import { assert } from '../base/assert.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'

/**
 * The name of a prepared branch: `hf_<fleet>_<home>_<transaction id>_<participant>`.
 *
 * It is all that a resolver has to go by: the branch's own rows are invisible until it is settled. Names may contain
 * the separator; with the fleet and the participant known, what is left is unambiguous, since the id has one length.
 */
export interface BranchName {
  readonly home: ShardName
  readonly transactionId: TransactionId
  readonly participant: ShardName
}

/** PostgreSQL keeps a gid in 200 bytes with its end. */
const gidBytesMax = 199
const idForm = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

export function gidPrefix(fleet: string): string {
  return `hf_${fleet}_`
}

export function formatGid(fleet: string, { home, transactionId, participant }: BranchName): string {
  const gid = `${gidPrefix(fleet)}${home}_${transactionId}_${participant}`
  assert(Buffer.byteLength(gid) <= gidBytesMax, `names of fleet and shards fit into a gid: ${gid}`)
  return gid
}

/** Undefined for what is not a branch of this fleet at this participant. */
export function parseGid(gid: string, fleet: string, participant: ShardName): BranchName | undefined {
  const prefix = gidPrefix(fleet)
  const suffix = `_${participant}`
  if (!gid.startsWith(prefix) || !gid.endsWith(suffix) || gid.length < prefix.length + suffix.length) return undefined
  const middle = gid.slice(prefix.length, gid.length - suffix.length)
  const transactionId = middle.slice(-36)
  const home = middle.slice(0, -37)
  if (!idForm.test(transactionId) || home === '' || middle.at(-37) !== '_') return undefined
  return { home: home as ShardName, transactionId: transactionId as TransactionId, participant }
}
