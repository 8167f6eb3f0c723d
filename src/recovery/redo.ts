import { HoldfastError } from '../base/errors.ts'
import type { RedoTransaction } from '../archive/redo-transaction.ts'
import { nameOf } from '../archive/redo-transaction.ts'
import type { Connection } from '../postgres/connection.ts'
import { formatLsn } from '../postgres/lsn.ts'
import type { RedoStep } from './cut.ts'
import type { RedoStatement } from './redo-plan.ts'
import { planRedo, redoSettings } from './redo-plan.ts'
import type { MigrationFiles } from './redo-migration.ts'
import { MigrationRefused, migrationsIn, noMigrationFiles, runMigrations } from './redo-migration.ts'
import * as store from './restore-store.ts'
import type { Shapes } from './row-key.ts'

/**
 * Applies transactions to a restored shard, each in one transaction of the server together with its mark (R4). Safe to run
 * again, e.g. after a crash, or with more at the end: what is marked, or was there before, is skipped. A branch that was
 * in the physical restore and is in the stream as well is there before (HZ-R3).
 *
 * Throws `redo_conflict` at the first that does not find the rows as they were, or is a migration that cannot be made anew (R10);
 * those before it stay applied.
 */
export async function redo(
  admin: Connection,
  steps: readonly RedoStep[],
  shapes: Shapes,
  files: MigrationFiles = noMigrationFiles,
): Promise<number> {
  if (steps.length === 0) return 0
  await store.ensureMarkers(admin)
  for (const [name, value] of Object.entries(redoSettings)) {
    await admin.query('select set_config($1, $2, false)', [name, value])
  }
  // A crash loses marks and rows together, so nothing here has to wait for the disk.
  await admin.query(`select set_config('synchronous_commit', 'off', false)`)
  const marked = await store.readRedone(admin)
  const there = new Set((await store.readTransactions(admin)).map(({ transactionId }) => transactionId))
  let redone = 0
  for (const step of steps) {
    const { identity, commitLsn } = step.transaction
    const isThere = (identity.kind === 'home' || identity.kind === 'branch') && there.has(identity.transactionId)
    if (isThere || marked.has(commitLsn)) continue
    if (migrationsIn(step).length > 0) await redoMigrations(admin, step, files)
    else await redoOne(admin, step, shapes)
    redone++
  }
  return redone
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
