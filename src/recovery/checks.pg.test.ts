import { expect, test } from 'vitest'
import { freshDatabase } from '../../test/support/database.ts'
import { eventually } from '../../test/support/eventually.ts'
import { history, home, payroll } from '../../test/support/redo-values.ts'
import { Connection } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { ServerHost } from '../postgres/server/server-host.ts'
import { checkEverything } from './checks.ts'
import type { Cut } from './cut.ts'
import type { RecoveryContext } from './recovery.ts'
import type { HistoryPlan } from './restore-plan.ts'
import type { Servers } from './restore-shard.ts'

test('checks that make way end within the query that they are at', async () => {
  const database = await freshDatabase()
  const other = await Connection.connect(database.target(), 5_000)
  const way = new AbortController()
  const reason = new Error('the fleet stops')
  const stop = { kind: 'before', lsn: 110n as Lsn } as const
  const one = { shard: payroll, stop, history: history(payroll, [home(1, 10n, [])]), shapes: new Map() }
  const host = { adminTarget: () => database.target() } as Partial<ServerHost> as ServerHost
  const context = { host, signal: way.signal } as Partial<RecoveryContext> as RecoveryContext
  const cut: Cut = { wanted: { bound: { kind: 'end' }, excluded: new Map() }, shards: new Map() }
  const plan = { shards: new Map([[payroll, one]]), cut } as Partial<HistoryPlan> as HistoryPlan
  const servers: Servers = new Map([
    [payroll, { id: 'one', dataDir: '/nowhere', address: { host: '/nowhere', port: 1 } }],
  ])
  try {
    await other.script('begin; lock table holdfast.commit_log in access exclusive mode')
    const ended = checkEverything(context, plan, servers).catch((error: unknown) => error)
    await eventually(async () => {
      const { rows } = await other.query(
        `select from pg_locks where relation = 'holdfast.commit_log'::regclass and not granted`,
      )
      return rows.length === 1
    })
    way.abort(reason)
    expect(await ended).toBe(reason)
  } finally {
    other.release()
    await database.drop()
  }
}, 20_000)
