import type { Fleet, TransactOutcome } from 'holdfast'

/**
 * The clean-up job of 10:14, and it is wrong: it takes holds of approved runs for leftovers and deletes them while they
 * are active. It works in small commits, as such jobs do, so other people's approvals land in between.
 */
export interface CleanUpRequest {
  readonly tenant: string
  /** How many holds go in one commit. */
  readonly holdsPerCommit?: number | undefined
  /** Stops after so many commits. */
  readonly commitsMax?: number | undefined
  /** Runs whose holds it looks at; all of the tenant when left out. */
  readonly runs?: readonly string[] | undefined
}

export const cleanUpActor = 'hold-clean-up-job'

/** One deleting commit after the other; what the caller does between two of them happens between them. */
export async function* cleanUp(
  fleet: Fleet,
  request: CleanUpRequest,
): AsyncGenerator<{ readonly runs: readonly string[]; readonly outcome: TransactOutcome<null> }> {
  const { tenant, holdsPerCommit = 1, commitsMax = Number.POSITIVE_INFINITY } = request
  const found = await fleet.read({ tenant, level: 'primary' }, (read) =>
    read.query<{ run_id: string }>(
      'treasury',
      `select run_id from treasury_holds
       where tenant = $1 and status = 'active' and ($2::text[] is null or run_id = any($2)) order by run_id`,
      [tenant, request.runs ?? null],
    ),
  )
  const stale = found.value.rows.map((row) => row.run_id)
  for (let commit = 0; commit < commitsMax && commit * holdsPerCommit < stale.length; commit += 1) {
    const runs = stale.slice(commit * holdsPerCommit, (commit + 1) * holdsPerCommit)
    const outcome = await fleet.transact(
      { tenant, action: 'treasury.clean-up', subject: runs.join(' '), actor: cleanUpActor },
      (tx) => {
        tx.batch('treasury', [
          [
            `delete from treasury_holds where tenant = $1 and run_id = any($2::text[]) and status = 'active'`,
            [tenant, runs],
          ],
        ])
        return Promise.resolve(null)
      },
    )
    yield { runs, outcome }
  }
}
