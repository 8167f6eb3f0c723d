import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Epoch } from '../directory/topology.ts'
import type { Connection } from '../postgres/connection.ts'

/**
 * Fencing a shard at its data: nothing that was opened at an older epoch can commit afterwards.
 *
 * The epoch is checked by every opening and every stamp in the shard itself, in a snapshot. A transaction that took its
 * snapshot before the change does not see it, so the change alone is not enough (HZ-F1): all transactions of that moment
 * must have ended. Only then is the list of prepared ones complete (HZ-M1): an open one may still prepare.
 */
export interface FenceOptions {
  /** How long open transactions may take to end by themselves; after that those that idle are terminated. */
  readonly graceMs: number
  /** How long after that everything may take at most. */
  readonly deadlineMs: number
  readonly clock: Clock
}

export interface Fenced {
  readonly terminated: number
  /** Prepared branches that are still there: a decision is due for each. */
  readonly prepared: readonly string[]
}

const pollMs = 20

/** Fences the shard of an administrator's connection at `epoch`. Throws `shard_fenced` when it is past it already. */
export async function fenceShard(admin: Connection, epoch: Epoch, options: FenceOptions): Promise<Fenced> {
  const { warnings } = await admin.query('select holdfast.fence($1)', [epoch], options.deadlineMs)
  if (warnings.length > 0) {
    throw new HoldfastError('node_unavailable', `the fence at epoch ${epoch} was not acknowledged by the followers`)
  }
  const terminated = await waitForOpenTransactions(admin, options)
  const { rows } = await admin.query<{ gid: string }>(
    'select gid from pg_prepared_xacts where database = current_database() order by prepared',
  )
  return { terminated, prepared: rows.map(({ gid }) => gid) }
}

/** Waits until every transaction that is open now has ended; past the grace terminates those that idle. */
async function waitForOpenTransactions(admin: Connection, options: FenceOptions): Promise<number> {
  const { clock } = options
  const started = clock.monotonicMs()
  const { rows } = await admin.query<{ vxid: string }>(
    `select virtualtransaction as vxid from pg_locks l join pg_stat_activity a using (pid)
     where l.locktype = 'virtualxid' and l.granted and a.backend_type = 'client backend'
       and a.datname = current_database() and l.pid <> pg_backend_pid()`,
  )
  const open = rows.map(({ vxid }) => vxid)
  // A session that was told to end takes its time, and is seen again.
  const terminated = new Set<number>()
  for (;;) {
    const { rows: left } = await admin.query<{ pid: number; idle: boolean }>(
      `select a.pid, a.state like 'idle in transaction%' as idle from pg_locks l join pg_stat_activity a using (pid)
       where l.locktype = 'virtualxid' and l.granted and l.virtualtransaction = any($1)`,
      [open],
    )
    if (left.length === 0) return terminated.size
    const waited = clock.monotonicMs() - started
    if (waited > options.deadlineMs) {
      throw new HoldfastError(
        'shard_fenced',
        `${left.length} transactions did not end within ${options.deadlineMs} ms`,
        {
          hint: 'the shard stays fenced; try again, or terminate them',
          detail: { pids: left.map(({ pid }) => pid) },
        },
      )
    }
    if (waited > options.graceMs) {
      for (const { pid } of left.filter(({ idle }) => idle)) {
        await admin.query('select pg_terminate_backend($1)', [pid])
        terminated.add(pid)
      }
    }
    await clock.sleep(pollMs)
  }
}
