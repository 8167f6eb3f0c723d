import { Connection } from './connection.ts'
import { type ConnectionTarget } from './statement.ts'

/**
 * PostgreSQL, as the rest of Holdfast sees it. Nothing outside this folder imports the driver, names a SQLSTATE by its
 * digits, or starts a server process.
 *
 * - `connection.ts`: one connection, statements in flights, every outcome with its tag and its warnings.
 * - `pools.ts`: the connections of a process, for transactions and for the work beside them.
 * - `given-up.ts`: how many that were given up may wait for the followers of a server at once.
 * - `replication.ts`, `replication-stream.ts`: the replication protocol.
 * - `schema.ts`: the `holdfast` schema and an application's migrations.
 * - `server/`: server processes on this machine, base backups, followers.
 *
 * PostgreSQL stores, logs, replicates and recovers. What this folder adds is that nothing it answers is lost on the way
 * up: a refusal, a warning and a silence are three different things, and callers get to see which one it was.
 */

const connectWithinMs = 10_000

/**
 * Work on a connection of its own, e.g. an administrator's. Throws what `Connection.connect` throws, and what `untilAborted` does.
 * `answerWithinMs` is the deadline of what names none.
 */
export async function withConnection<T>(
  target: ConnectionTarget,
  use: (connection: Connection) => Promise<T>,
  signal?: AbortSignal,
  answerWithinMs?: number,
): Promise<T> {
  const connection = await Connection.connect(target, connectWithinMs, answerWithinMs)
  try {
    return await untilAborted(signal, [connection], () => use(connection))
  } finally {
    connection.release()
  }
}

/** Work whose connections are broken off once the signal is aborted, also within a query: it throws the signal's reason then. */
export async function untilAborted<T>(
  signal: AbortSignal | undefined,
  connections: readonly Connection[],
  work: () => Promise<T>,
): Promise<T> {
  const breakOff = () => {
    for (const connection of connections) connection.destroy()
  }
  signal?.throwIfAborted()
  signal?.addEventListener('abort', breakOff, { once: true })
  try {
    return await work()
  } catch (error) {
    signal?.throwIfAborted()
    throw error
  } finally {
    signal?.removeEventListener('abort', breakOff)
  }
}
