import { HoldfastError } from '../base/errors.ts'
import type { RedoTransaction } from '../archive/redo-transaction.ts'
import { nameOf, stampedId } from '../archive/redo-transaction.ts'
import type { Connection } from '../postgres/connection.ts'
import { formatLsn } from '../postgres/lsn.ts'
import type { RedoStep } from './cut.ts'
import type { RedoStatement } from './redo-plan.ts'
import { planRedo, redoSettings } from './redo-plan.ts'
import type { MigrationFiles } from './redo-migration.ts'
import { isUpgrade, MigrationRefused, migrationsIn, noMigrationFiles, runMigrations } from './redo-migration.ts'
import * as store from './restore-store.ts'
import type { Shapes } from './row-key.ts'

/**
 * Applies transactions to a restored shard, each in one transaction of the server together with its mark (R4). Safe to run
 * again, e.g. after a crash, or with more at the end: what is marked, or was there before, is skipped. A branch that was
 * in the physical restore and is in the stream as well is there before (HZ-R3).
 *
 * Steps are taken as they come, a stretch of them at once, since there may be more than fits in memory.
 *
 * Throws `redo_conflict` at the first that does not find the rows as they were, or is a migration that cannot be made anew (R10);
 * those before it stay applied.
 */
export async function redo(
  admin: Connection,
  steps: AsyncIterable<RedoStep> | Iterable<RedoStep>,
  shapes: Shapes,
  files: MigrationFiles = noMigrationFiles,
): Promise<Redone> {
  let transactions = 0
  let isUpgraded = false
  let isPrepared = false
  for await (const stretch of stretchesOf(steps)) {
    if (!isPrepared) await prepare(admin)
    isPrepared = true
    const isThere = await findThere(admin, stretch)
    for (const step of stretch) {
      isUpgraded ||= isUpgrade(step)
      if (isThere(step.transaction)) continue
      if (migrationsIn(step).length > 0) await redoMigrations(admin, step, files)
      else await redoOne(admin, step, shapes)
      transactions++
    }
  }
  return { transactions, isUpgrade: isUpgraded }
}

export interface Redone {
  /** How many were applied. */
  readonly transactions: number
  /** Whether a release of the platform changed the schema in one of the steps, applied now or before. */
  readonly isUpgrade: boolean
}

/** Changes that are held at once, of one transaction more: enough to ask for all of a stretch at once what is there. */
const stretchChangesMax = 1_000

async function* stretchesOf(
  steps: AsyncIterable<RedoStep> | Iterable<RedoStep>,
): AsyncGenerator<readonly RedoStep[], void> {
  let stretch: RedoStep[] = []
  let changes = 0
  for await (const step of steps) {
    stretch.push(step)
    // One without a change is held as well.
    changes += Math.max(1, step.changes.length)
    if (changes < stretchChangesMax) continue
    yield stretch
    stretch = []
    changes = 0
  }
  if (stretch.length > 0) yield stretch
}

async function prepare(admin: Connection): Promise<void> {
  await store.ensureMarkers(admin)
  for (const [name, value] of Object.entries(redoSettings)) {
    await admin.query('select set_config($1, $2, false)', [name, value])
  }
  // A crash loses marks and rows together, so nothing here has to wait for the disk.
  await admin.query(`select set_config('synchronous_commit', 'off', false)`)
}

/** What of a stretch was there before it, or is marked. */
async function findThere(
  admin: Connection,
  stretch: readonly RedoStep[],
): Promise<(transaction: RedoTransaction) => boolean> {
  const ids = stretch.flatMap(({ transaction: { identity } }) => stampedId(identity) ?? [])
  const there = await store.readThere(admin, ids)
  const marked = await store.readRedone(
    admin,
    stretch.map(({ transaction }) => transaction.commitLsn),
  )
  return ({ identity, commitLsn }) => {
    const id = stampedId(identity)
    return marked.has(commitLsn) || (id !== null && there.has(id))
  }
}

async function redoOne(admin: Connection, step: RedoStep, shapes: Shapes): Promise<void> {
  const statements = planRedo(step, shapes)
  const outcomes = await admin.flight([
    { text: 'begin' },
    ...statements,
    { text: store.markRedone, values: [formatLsn(step.transaction.commitLsn)] },
  ])
  const failure = findFailure(step.transaction, statements, outcomes.slice(1))
  if (failure !== null) {
    await admin.query('rollback')
    throw failure
  }
  // Sent only now: a statement that found no row is no error to the server.
  const { tag } = await admin.query('commit')
  if (tag !== 'COMMIT') throw conflict(step.transaction, `its commit was answered with ${tag}`)
}

/** R10. The statements of the migration stand for all that its transaction changed. */
async function redoMigrations(admin: Connection, step: RedoStep, files: MigrationFiles): Promise<void> {
  await admin.query('begin')
  try {
    await runMigrations(admin, step, files)
    await admin.query(store.markRedone, [formatLsn(step.transaction.commitLsn)])
  } catch (error) {
    await admin.query('rollback').catch(() => undefined)
    if (!(error instanceof MigrationRefused)) throw error
    throw conflict(step.transaction, error.message, error)
  }
  const { tag } = await admin.query('commit')
  if (tag !== 'COMMIT') throw conflict(step.transaction, `its commit was answered with ${tag}`)
}

function findFailure(
  transaction: RedoTransaction,
  statements: readonly RedoStatement[],
  outcomes: Awaited<ReturnType<Connection['flight']>>,
): HoldfastError | null {
  for (const [index, outcome] of outcomes.entries()) {
    const statement = statements[index]
    if (!outcome.ok) {
      const where = statement === undefined ? 'its mark' : statement.relation
      return conflict(transaction, `${where}: ${outcome.error.message} (${outcome.error.sqlState})`, outcome.error)
    }
    if (statement?.rows != null && outcome.rowCount !== statement.rows) {
      return conflict(transaction, `a row of ${statement.relation} is not as it was before`)
    }
  }
  return null
}

function conflict(transaction: RedoTransaction, what: string, cause?: unknown): HoldfastError {
  const { identity, shard, commitLsn } = transaction
  const name = nameOf(transaction)
  const subject =
    identity.kind === 'home' || identity.kind === 'branch' ? ` (${identity.action} ${identity.subject})` : ''
  return new HoldfastError('redo_conflict', `transaction ${name}${subject} cannot be redone on ${shard}: ${what}`, {
    hint: 'leave it out too, or restore to a point before it',
    detail: { transaction: name, shard, commitLsn: formatLsn(commitLsn) },
    cause,
  })
}
