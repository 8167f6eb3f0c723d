import { HoldfastError } from '../base/errors.ts'
import { endsWithin } from '../base/within.ts'
import type { FleetNode, NodeId, ShardName } from '../directory/topology.ts'
import { ConnectionLost, ServerError } from '../postgres/failure.ts'
import type { TransactionEnvironment } from './environment.ts'
import { shardOf } from './environment.ts'
import type { InDoubtBranch } from './in-doubt.ts'
import { describe, listInDoubt, resolveBranch } from './in-doubt.ts'

/**
 * Settling what is decided on a shard, for one who must find there whatever anybody was told of before he came: a `strong`
 * read, a session that knows of more branches than it names.
 *
 * What was acknowledged before the call was prepared before it: it is visible, or in the first listing. So those that are
 * prepared meanwhile are nobody's concern. On a busy shard there is always one more of them that another is just settling,
 * and who waited for none to be left would wait for ever. Of those in the first listing one may be left that its home, asked
 * after the call, has no record of, once a barrier has passed there behind the question: nobody was told of that commit either.
 */
export interface DecidedSettled {
  /** The primary that was asked. What another one has prepared is not known. */
  readonly on: NodeId
  /** Behind the listing, which everybody pays. */
  readonly waitedMs: number
}

/** Each takes a connection of the few that settlements and barriers of everybody else go through. */
const atOnceMax = 3
/** Between two looks at those that another settles, or whose home is being replaced. */
const pauseMs = 20
const withinMsDefault = 2_000
/** A listing is no wait, and has this long even where nothing may be waited for. */
const listWithinMs = 1_000

/**
 * Gives up none that may still be decided. Throws `node_unavailable` where the shard does not answer, or where one may be
 * decided and its home does not say, not within that time, or a person must; whoever was told of that commit would not find
 * it here. `shard_fenced` where the shard has no primary that takes traffic. Retry safe.
 */
export async function settleDecided(
  environment: TransactionEnvironment,
  participant: ShardName,
  withinMs = withinMsDefault,
): Promise<DecidedSettled> {
  const { clock } = environment
  const { primary, state } = shardOf(environment, participant)
  if (state !== 'open') {
    throw new HoldfastError('shard_fenced', `${participant} is ${state}: its branches cannot be settled`, {
      detail: { shard: participant },
    })
  }
  let listed = await list(environment, primary, withinMs)
  const beganMs = clock.monotonicMs()
  const waitedMs = () => clock.monotonicMs() - beganMs
  const sought = new Set(listed.map(({ gid }) => gid))
  while (sought.size > 0) {
    const resolving = resolveFirst(environment, sought, listed)
    if (!(await endsWithin(clock, resolving, withinMs - waitedMs()))) throw unsettled(participant, 'it takes too long')
    const open = await resolving
    const lasting =
      open.find(({ needsPerson }) => needsPerson) ?? (waitedMs() + pauseMs > withinMs ? open[0] : undefined)
    if (lasting !== undefined) throw unsettled(participant, lasting.why)
    if (sought.size === 0) break
    if (open.length > 0) await clock.sleep(pauseMs)
    listed = await list(environment, primary, withinMs - waitedMs())
    const gids = new Set(listed.map(({ gid }) => gid))
    for (const gid of sought) if (!gids.has(gid)) sought.delete(gid)
  }
  return { on: primary.id, waitedMs: waitedMs() }
}

async function list(
  environment: TransactionEnvironment,
  { shard, id }: FleetNode,
  leftMs: number,
): Promise<InDoubtBranch[]> {
  const { serviceWithinMs } = environment.limits
  try {
    return await listInDoubt(environment, shard, Math.min(serviceWithinMs, Math.max(listWithinMs, leftMs)))
  } catch (cause) {
    if (!(cause instanceof ConnectionLost || cause instanceof ServerError)) throw cause
    throw new HoldfastError('node_unavailable', `the branches on ${shard} cannot be listed: ${describe(cause)}`, {
      detail: { shard, node: id },
      cause,
    })
  }
}

/** Why it may be decided all the same. */
interface Open {
  readonly why: string
  /** Time does not help. */
  readonly needsPerson: boolean
}

/** Takes the first few up; those that stay open go behind the others. */
async function resolveFirst(
  environment: TransactionEnvironment,
  sought: Set<string>,
  listed: readonly InDoubtBranch[],
): Promise<Open[]> {
  const first = [...sought].slice(0, atOnceMax).flatMap((gid) => listed.find((branch) => branch.gid === gid) ?? [])
  const resolved = first.map(async (branch) => ({ gid: branch.gid, open: await resolve(environment, branch) }))
  const left: Open[] = []
  for (const { gid, open } of await Promise.all(resolved)) {
    sought.delete(gid)
    if (open === undefined) continue
    sought.add(gid)
    left.push(open)
  }
  return left
}

/** Undefined when it is settled, or nobody was told of its commit. */
async function resolve(environment: TransactionEnvironment, branch: InDoubtBranch): Promise<Open | undefined> {
  const home = environment.topology.current().shards.get(branch.name.home)
  const resolution = await resolveBranch(environment, branch, Number.POSITIVE_INFINITY)
  if (resolution.kind === 'settled') return undefined
  const open = { why: resolution.why, needsPerson: resolution.kind === 'needs person' }
  const hasNoRecord = resolution.kind === 'left' && resolution.failed === null && home?.state === 'open'
  if (!hasNoRecord) return open
  try {
    // Of a home that was replaced unheard the decision may wait for followers that it has lost, invisible, and be told elsewhere.
    await environment.barriers.pass(home.name, home.primary.id)
    return undefined
  } catch (error) {
    return { ...open, why: describe(error) }
  }
}

function unsettled(participant: ShardName, why: string): HoldfastError {
  return new HoldfastError('node_unavailable', `not every branch on ${participant} is settled: ${why}`, {
    detail: { shard: participant },
  })
}
