import { systemClock } from '../../src/base/clock.ts'
import { Connection } from '../../src/postgres/connection.ts'
import type { ConnectionTarget } from '../../src/postgres/statement.ts'
import type { Lsn } from '../../src/postgres/lsn.ts'
import { formatLsn, maxLsn, toLsn } from '../../src/postgres/lsn.ts'
import { connectForReplication, ReplicationConnection } from '../../src/postgres/replication.ts'
import { ReplicationStream } from '../../src/postgres/replication-stream.ts'
import type { Running } from './archive.ts'
import { start } from './archive.ts'

/** The name that it has in `synchronous_standby_names`. */
export const acknowledger = 'acknowledger'
export const acknowledgedBy = `ANY 1 (${acknowledger})`

const reconnectAfterMs = 20

/**
 * A synchronous follower that keeps nothing: it receives the log of a server and acknowledges it. Enough for shards of
 * one server whose commits have to wait for somebody. It takes no slot, and comes back when the server does.
 */
export function startAcknowledging(server: ConnectionTarget, applicationName: string = acknowledger): Running {
  const target = { ...server, applicationName }
  return start(async (signal) => {
    while (!signal.aborted) {
      try {
        await acknowledge(target, signal)
      } catch {
        await systemClock.sleep(reconnectAfterMs, signal).catch(() => undefined)
      }
    }
  })
}

/**
 * Waits until every commit of a server waits for the followers of `names`: sessions have the value before the
 * checkpointer, which is the one that lets commits wait; a checkpoint asked for after that begins when it has it too.
 */
export async function untilInForce(admin: ConnectionTarget, names: string): Promise<void> {
  for (;;) {
    const connection = await Connection.connect(admin, 10_000)
    try {
      const sql = `select current_setting('synchronous_standby_names') as names`
      const { rows } = await connection.query<{ names: string }>(sql)
      if (rows[0]?.names === names) return void (await connection.query('checkpoint'))
    } finally {
      connection.release()
    }
    await systemClock.sleep(10)
  }
}

async function acknowledge(target: ConnectionTarget, signal: AbortSignal): Promise<void> {
  const { timeline, flushLsn } = await whereIs(target)
  const client = await connectForReplication(target, 'physical')
  const end = () => client.connection.stream.destroy()
  signal.addEventListener('abort', end)
  try {
    const command = `START_REPLICATION PHYSICAL ${formatLsn(flushLsn)} TIMELINE ${timeline}`
    const stream = new ReplicationStream(command, client.connection, systemClock)
    client.query(stream)
    await stream.started
    for (let at: Lsn = flushLsn; !signal.aborted; ) {
      stream.report({ written: at, flushed: at, applied: at })
      const { messages, ended } = await stream.receive(1_000)
      if (ended !== null) return
      for (const { start: from, bytes } of messages) at = maxLsn(at, toLsn(from + BigInt(bytes?.length ?? 0)))
    }
  } finally {
    signal.removeEventListener('abort', end)
    end()
  }
}

async function whereIs(target: ConnectionTarget): Promise<{ timeline: number; flushLsn: Lsn }> {
  const connection = await ReplicationConnection.connect(target, 'physical', systemClock)
  try {
    return await connection.identifySystem()
  } finally {
    connection.close()
  }
}
