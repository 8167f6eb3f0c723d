import { HoldfastError } from '../base/errors.ts'
import type { Connection } from '../postgres/connection.ts'
import { ConnectionLost } from '../postgres/failure.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'

/**
 * What a supervisor does on a server, mostly in its turn. Without a deadline, one server that hangs, or one lock that outlived its
 * session in a prepared transaction, keeps every failover and restart of the other shards waiting.
 */

/** Rows and settings, and small writes that wait for followers. */
const answerWithinMs = 30_000
/** What takes as long as there is data. Given up too soon it would begin anew each time, and never end. */
export const longWithinMs = 24 * 3_600_000

/** Throws `node_unavailable` where it is not answered in time; each step of the supervisor may have been done before. */
export async function administer<T>(
  target: ConnectionTarget,
  use: (admin: Connection) => Promise<T>,
  withinMs = answerWithinMs,
): Promise<T> {
  try {
    return await withConnection(target, use, undefined, withinMs)
  } catch (error) {
    if (!(error instanceof ConnectionLost)) throw error
    throw new HoldfastError('node_unavailable', `the server at ${target.host} does not answer: ${error.message}`, {
      hint: 'its log and pg_locks say what it waits for; a prepared transaction keeps its locks over a restart',
      cause: error,
    })
  }
}
