import { migrationRelation } from '../archive/redo-transaction.ts'
import { present } from '../base/assert.ts'
import type { Connection } from '../postgres/connection.ts'
import type { SqlFile } from '../postgres/release.ts'
import { checksumOf } from '../postgres/release.ts'
import { InstallationFailure, isMigrated, migrateAgain, migrationOwner } from '../postgres/schema.ts'
import type { RedoStep } from './cut.ts'

/**
 * R10: changes of the schema, made anew where they stand in the order of the log.
 *
 * Decoding omits them (HZ-R1), but a migration leaves a row in the transaction that it ran in. So the redo knows where rows of
 * another shape begin, and which file made it so; it runs the file there, in place of the rows that came with it.
 *
 * HAZARD: what a migration computes from the time or by chance is not the same again. A later change of such a row does not
 * find it as it was, and stops the redo.
 */
export type MigrationFiles = (owner: string) => Promise<readonly SqlFile[]>

export const noMigrationFiles: MigrationFiles = () => Promise.resolve([])

interface MigrationRow {
  readonly owner: string
  readonly name: string
  readonly checksum: string
}

/** Why a migration is not made anew. */
export class MigrationRefused extends Error {}

/** The migrations that ran in a transaction, in their order. */
export function migrationsIn({ changes }: RedoStep): MigrationRow[] {
  return changes.flatMap((change) => {
    if (change.op !== 'insert' || change.relation !== migrationRelation) return []
    const of = (column: string) => present(change.after[column], `a migration has its ${column}`)
    return [{ owner: of('owner'), name: of('name'), checksum: of('checksum') }]
  })
}

/** Whether a release of the platform changed the schema there: then its functions have to follow. */
export function isUpgrade(step: RedoStep): boolean {
  return migrationsIn(step).some(({ owner }) => owner === migrationOwner)
}

/** In the transaction that is open. Throws `MigrationRefused`. */
export async function runMigrations(admin: Connection, step: RedoStep, files: MigrationFiles): Promise<void> {
  for (const { owner, name, checksum } of migrationsIn(step)) {
    if (await isMigrated(admin, owner, name)) continue
    const file = (await files(owner)).find((one) => one.name === name)
    if (file === undefined) throw new MigrationRefused(`migration ${name} of ${owner} is not known here`)
    if (checksumOf([file]) !== checksum) {
      throw new MigrationRefused(`migration ${name} of ${owner} is not the one that ran`)
    }
    try {
      await migrateAgain(admin, owner, file)
    } catch (error) {
      if (!(error instanceof InstallationFailure)) throw error
      throw new MigrationRefused(`migration ${error.message} (${error.refusal.sqlState})`, { cause: error })
    }
  }
}
