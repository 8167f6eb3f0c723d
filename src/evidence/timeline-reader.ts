import type { ShardArchive } from '../archive/archive.ts'
import { nameOf } from '../archive/redo-transaction.ts'
import { present } from '../base/assert.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs, hlcZero, maxHlc, toHlc } from '../hlc/hlc.ts'
import { ServerError } from '../postgres/failure.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import type { ConnectionTarget, Statement, StatementOutcome } from '../postgres/statement.ts'
import type { TransactionEnvironment } from '../transaction/environment.ts'
import { primaryOf, primaryTarget } from '../transaction/environment.ts'
import { toSilence } from '../transaction/sql-errors.ts'
import type { TimelineEntry, TimelineRange } from './timeline.ts'
import { compareEntries, mergeTimelines } from './timeline.ts'
import {
  entriesOf,
  placeBefore,
  placeBehind,
  readClock,
  readClosed,
  requestClosing,
  selectHistory,
  timestampOf,
} from './timeline-store.ts'

/** How long the shards may take to close the moment of the question. After that the history ends at what is closed. */
const closeWithinMs = 2_000
const pollMs = 5
const pageSize = 500

export interface TimelineSources {
  readonly environment: TransactionEnvironment
  /** The archives that this process can read; their redo streams tell of unattributed commits. */
  readonly archives: ReadonlyMap<ShardName, ShardArchive>
}

/**
 * The committed history of all shards as of now, each page behind a barrier of its shard (V3, V5). Throws
 * `node_unavailable` (safe) when a primary does not answer: a history without one shard would not be merged.
 */
export async function* readTimeline(
  { environment, archives }: TimelineSources,
  range: TimelineRange = {},
): AsyncGenerator<TimelineEntry> {
  const shards = [...environment.topology.current().shards.keys()]
  const through = await closedThrough(environment, shards, range.until)
  const unattributed = range.tenant === undefined ? [...archives] : []
  yield* mergeTimelines([
    ...shards.map((shard) => shardHistory(environment, shard, range, through)),
    ...unattributed.map(([, archive]) => unattributedCommits(archive, range, through)),
  ])
}

/**
 * The greatest timestamp at or below which every shard's history is complete, and which covers the moment of the call
 * where the closers keep up: a commit that was acknowledged before is in it.
 */
async function closedThrough(
  environment: TransactionEnvironment,
  shards: readonly ShardName[],
  until: Hlc | undefined,
): Promise<Hlc> {
  const clocks = await Promise.all(shards.map((shard) => ask(environment, shard, readClock)))
  const now = clocks.reduce(maxHlc, hlcZero)
  const wanted = until !== undefined && until <= now ? toHlc(until > 0n ? until - 1n : 0n) : now
  const closed = await Promise.all(
    shards.map((shard, index) => closeOn(environment, shard, wanted, present(clocks[index], 'a clock'))),
  )
  return closed.reduce((least, each) => (each < least ? each : least), wanted)
}

/**
 * How far a shard is closed, by when what is wanted is closed or the time is up. One whose wall was set back cannot follow the
 * others there; what it has stamped itself it closes all the same.
 */
async function closeOn(environment: TransactionEnvironment, shard: ShardName, wanted: Hlc, own: Hlc): Promise<Hlc> {
  const { clock } = environment
  const request = (timestamp: Hlc) =>
    ask(environment, shard, requestClosing(timestamp, hlcFromWallMs(clock.wallMs()))).then(() => timestamp)
  const deadline = clock.monotonicMs() + closeWithinMs
  const aim = await request(wanted).catch((error: unknown) => {
    if (!(error instanceof ServerError && error.sqlState === sqlState.clockOffsetExceeded)) throw error
    return request(own)
  })
  for (;;) {
    const reached = await ask(environment, shard, readClosed)
    if (reached >= aim || clock.monotonicMs() > deadline) return reached
    await clock.sleep(pollMs)
  }
}

async function ask(environment: TransactionEnvironment, shard: ShardName, statement: Statement): Promise<Hlc> {
  return tell(environment, shard, primaryTarget(environment, shard), statement, timestampOf)
}

async function tell<T>(
  { pools, limits }: TransactionEnvironment,
  shard: ShardName,
  target: ConnectionTarget,
  statement: Statement,
  read: (outcome: StatementOutcome | undefined) => T,
): Promise<T> {
  try {
    const [outcome] = await pools.flight(target, [statement], limits.serviceWithinMs)
    return read(outcome)
  } catch (error) {
    throw toSilence(error, shard, 'its history')
  }
}

async function* shardHistory(
  environment: TransactionEnvironment,
  shard: ShardName,
  { tenant, since = hlcZero, after }: TimelineRange,
  through: Hlc,
): AsyncGenerator<TimelineEntry> {
  for (let place = after === undefined || after.commitTimestamp < since ? placeBefore(since) : placeBehind(after); ; ) {
    const statement = selectHistory(place, through, tenant, pageSize)
    const primary = primaryOf(environment, shard)
    const page = await tell(environment, shard, primary.target, statement, (outcome) => entriesOf(outcome, shard))
    const last = page.at(-1)
    if (last === undefined) return
    await environment.barriers.pass(shard, primary.id)
    yield* page
    if (page.length < pageSize) return
    place = placeBehind(last)
  }
}

/** Break-glass writes, from the redo stream; in the order of the log, which is that of the stamps before them. */
async function* unattributedCommits(
  archive: ShardArchive,
  { since = hlcZero, after }: TimelineRange,
  through: Hlc,
): AsyncGenerator<TimelineEntry> {
  if ((await archive.redoThrough()) === undefined) return
  const found: TimelineEntry[] = []
  for await (const transaction of archive.readRedo()) {
    const { identity } = transaction
    if (identity.kind !== 'unattributed' || identity.after < since || identity.after > through) continue
    const entry: TimelineEntry = {
      name: nameOf(transaction),
      transactionId: null,
      commitTimestamp: identity.after,
      tenant: null,
      action: null,
      subject: null,
      actor: null,
      shards: [archive.shard],
      attributed: false,
    }
    if (after === undefined || compareEntries(entry, after) > 0) found.push(entry)
  }
  yield* found.toSorted(compareEntries)
}
