import { HoldfastError } from '../base/errors.ts'
import { present } from '../base/assert.ts'
import type { Epoch, ShardName, TransactionId } from '../directory/topology.ts'
import { fenceShard } from '../failover/fencing.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import type { ConnectionTarget, Statement } from '../postgres/statement.ts'
import { ServerError } from '../postgres/failure.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, parseLsn } from '../postgres/lsn.ts'
import { withConnection } from '../postgres/postgres.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { passBarrier } from '../transaction/barrier.ts'
import type { CommitRow, TransactionRecord } from '../transaction/decision-store.ts'
import * as decisions from '../transaction/decision-store.ts'
import type { BranchName } from '../transaction/gid.ts'
import { parseGid } from '../transaction/gid.ts'
import type { RecoveryContext } from './recovery.ts'
import type { Servers } from './restore-shard.ts'
import * as store from './restore-store.ts'

/**
 * Brings a fleet to a standstill whose every commit is in the archives.
 *
 * The order matters. All shards are fenced first: then no coordinator can decide any more, so a record that is not there
 * will never be. Then what is prepared is settled by the records, behind a barrier, since a record counts only once it is
 * replicated. Only then there is an end of the log that everything lies before, and the archives are waited for up
 * to it.
 */
export interface FencedShard {
  readonly shard: ShardName
  /** The fence's. */
  readonly epoch: Epoch
  /** Its primary, as administrator. */
  readonly target: ConnectionTarget
}

const graceMs = 2_000
const fenceWithinMs = 20_000
const answerWithinMs = 20_000
const archiveWithinMs = 60_000
const pollMs = 20

/** Where a decision is looked up: the primary of its home. */
type Homes = ReadonlyMap<ShardName, ConnectionTarget>

export async function fenceAll({ clock, onStep }: RecoveryContext, shards: readonly FencedShard[]): Promise<string> {
  let terminated = 0
  for (const { shard, epoch, target } of shards) {
    await onStep('cutover fence', { shard })
    const fenced = await withConnection(target, (admin) =>
      fenceShard(admin, epoch, { graceMs, deadlineMs: fenceWithinMs, clock }),
    )
    terminated += fenced.terminated
  }
  return `${shards.length} shards fenced, ${terminated} sessions ended`
}

/** Settles every prepared branch; throws `check_failed` where one is for a person. `homes` has every shard, the fenced ones and those that are lost. */
export async function settleAll(
  context: Pick<RecoveryContext, 'fleet' | 'clock'>,
  shards: readonly FencedShard[],
  homes: Homes,
): Promise<string> {
  for (const one of shards) await barrierOn(one)
  let settled = 0
  for (const one of shards) {
    settled += await withConnection(one.target, (admin) => settleShard(context, one, admin, shards, homes))
  }
  return `${settled} branches settled`
}

async function settleShard(
  { fleet, clock }: Pick<RecoveryContext, 'fleet' | 'clock'>,
  { shard }: FencedShard,
  admin: Connection,
  shards: readonly FencedShard[],
  homes: Homes,
): Promise<number> {
  let settled = 0
  const deadline = clock.monotonicMs() + fenceWithinMs
  for (;;) {
    const [gid] = await store.readPreparedGids(admin)
    if (gid === undefined) return settled
    const branch = parseGid(gid, fleet, shard)
    if (branch === undefined || clock.monotonicMs() > deadline) {
      throw new HoldfastError('check_failed', `prepared transaction ${gid} on ${shard} cannot be settled`, {
        hint: 'commit it or roll it back by hand',
        detail: { shard, gid },
      })
    }
    const { record, couldBeCollected } = await askHome(
      present(homes.get(branch.home), `${branch.home} is a shard`),
      branch.transactionId,
    )
    if (record === undefined && couldBeCollected) throw withoutRecord(shard, gid, branch)
    const homeEpoch = shards.find((one) => one.shard === branch.home)?.epoch ?? record?.homeEpoch
    await settleBranch(admin, gid, branch, record, homeEpoch, hlcFromWallMs(clock.wallMs()))
    settled++
  }
}

/** K1: below the watermark of its home the record may be gone, that of an abort too: only a commit is in the log for ever. */
function withoutRecord(shard: ShardName, gid: string, { home, transactionId }: BranchName): HoldfastError {
  return new HoldfastError(
    'check_failed',
    `branch ${gid} on ${shard} has no record, which ${home} may have collected, and ${home} has no commit of it`,
    {
      hint: `the log of ${home} keeps every commit: roll it back by hand`,
      detail: { shard, gid, home, transactionId },
    },
  )
}

interface AtHome {
  /** As the commit log has it where the record is gone. */
  readonly record: TransactionRecord | undefined
  readonly couldBeCollected: boolean
}

async function askHome(home: ConnectionTarget, id: TransactionId): Promise<AtHome> {
  return withConnection(home, async (admin) => {
    const [found, logged, collected] = await admin.flight(
      [decisions.selectRecord(id), decisions.selectCommit(id), decisions.selectCouldBeCollected(id)],
      answerWithinMs,
    )
    const record = decisions.readRecord(present(found, 'the outcome of the record'))
    return {
      record: record ?? recordOf(decisions.readCommit(present(logged, 'the row of the commit log'))),
      couldBeCollected: decisions.readAnswer(present(collected, 'whether it could have been collected')),
    }
  })
}

function recordOf(commit: CommitRow | undefined): TransactionRecord | undefined {
  if (commit === undefined) return undefined
  return { outcome: 'COMMITTED', commitTimestamp: commit.commitTimestamp, homeEpoch: commit.epoch, reason: '' }
}

async function settleBranch(
  admin: Connection,
  gid: string,
  { transactionId, home }: BranchName,
  record: TransactionRecord | undefined,
  homeEpoch: Epoch | undefined,
  wall: Hlc,
): Promise<void> {
  const isCommit = record?.outcome === 'COMMITTED'
  const statements: Statement[] = []
  if (isCommit) {
    statements.push(decisions.observeDecided(record.commitTimestamp, wall))
    statements.push(decisions.recordDecision(transactionId, record, home, present(homeEpoch, 'a record has its epoch')))
  }
  for (const outcome of await admin.flight(statements, answerWithinMs)) if (!outcome.ok) throw outcome.error
  try {
    const { text } = isCommit ? decisions.commitPrepared(gid) : decisions.rollbackPrepared(gid)
    await admin.query(text, [], answerWithinMs)
  } catch (error) {
    // A resolver is settling it at this moment, by the same record.
    const isSettled = error instanceof ServerError && settledElsewhere.some((state) => state === error.sqlState)
    if (!isSettled) throw error
  }
}

const settledElsewhere = [sqlState.undefinedObject, sqlState.notInPrerequisiteState]

/** Waits until the archives have every commit of the fenced shards; says up to where. */
export async function drainAll(context: RecoveryContext, shards: readonly FencedShard[]): Promise<string> {
  const { archives, clock } = context
  const ends: string[] = []
  for (const { shard, target } of shards) {
    const end = await withConnection(target, async (admin) => {
      await passBarrier(admin, shard, answerWithinMs)
      return readEnd(admin)
    })
    // A second one, behind the end: the stream tells how far it is by what it has passed.
    await barrierOn({ shard, target })
    const archive = present(archives.get(shard), `${shard} has an archive`)
    const deadline = clock.monotonicMs() + archiveWithinMs
    for (;;) {
      const through = await archive.redoThrough()
      if (through !== undefined && through.lsn >= end) break
      if (clock.monotonicMs() > deadline) {
        throw new HoldfastError('node_unavailable', `the archive of ${shard} does not reach ${formatLsn(end)}`, {
          hint: 'a gateway in the region of the archive keeps it up; is one running?',
          detail: { shard },
        })
      }
      await clock.sleep(pollMs)
    }
    ends.push(`${shard} at ${formatLsn(end)}`)
  }
  return `archived: ${ends.join(', ')}`
}

async function readEnd(admin: Connection): Promise<Lsn> {
  const { rows } = await admin.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn')
  return parseLsn(present(rows[0], 'one row').lsn)
}

async function barrierOn({ shard, target }: Pick<FencedShard, 'shard' | 'target'>): Promise<void> {
  await withConnection(target, (admin) => passBarrier(admin, shard, answerWithinMs))
}

/** HZ-T2: another environment of the same stop may have been taken over since, with the same timeline number. */
export async function requireFreeTimelines({ host, archives }: RecoveryContext, servers: Servers): Promise<void> {
  for (const [shard, { address }] of servers) {
    const timeline = await withConnection(host.adminTarget(address), store.readTimeline)
    const { timeline: newest } = await present(archives.get(shard), `${shard} has an archive`).timelineHistory()
    if (timeline > newest) continue
    throw new HoldfastError('check_failed', `timeline ${timeline} of the environment is taken on ${shard} by now`, {
      hint: 'restore again',
      detail: { shard, timeline },
    })
  }
}
