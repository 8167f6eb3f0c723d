import { newTimeOrderedUuid } from '../../src/base/random.ts'
import { isHoldfastError } from '../../src/base/errors.ts'
import type { Epoch, ShardName, TransactionId } from '../../src/directory/topology.ts'
import { hlcZero } from '../../src/hlc/hlc.ts'
import type { Connection } from '../../src/postgres/connection.ts'
import type { Statement } from '../../src/postgres/statement.ts'
import { ServerError } from '../../src/postgres/failure.ts'
import { sqlState } from '../../src/postgres/sqlstate.ts'
import * as store from '../../src/transaction/transaction-store.ts'
import type { CanaryHistory } from '../sim/canaries.ts'
import type { Client } from './client.ts'
import { NotAcknowledged } from './client.ts'
import { outcomeOf } from './outcome.ts'
import { homes, shardOf } from './stand.ts'
import type { Stage, Workload } from './workload.ts'

/**
 * One row for each of several tenants, at the home of each. Statements name no tenant, as an application's that forgot
 * to; and sessions try what nobody may: to write another's row, to work without an opening, to stamp by a placement of
 * the past.
 */
const tenants = [...homes.keys()]
const look = 'select tenant from left_canaries'
const addRow = 'insert into left_canaries values ($1, 0) on conflict do nothing'
const touch = 'update left_canaries set sung = sung + 1 returning tenant'

export function canary(stage: Pick<Stage, 'sources' | 'fleet'>): Workload<CanaryHistory> {
  const { sources, fleet } = stage
  const sights: CanaryHistory['sights'][number][] = []
  const attempts: CanaryHistory['attempts'][number][] = []

  const about = (tenant: string, client: number) => ({
    tenant,
    action: 'torture.sing',
    subject: 'canary',
    actor: `client-${client}`,
  })
  const see = (by: string, where: string, shown: readonly Readonly<Record<string, unknown>>[], mayBeEmpty = false) =>
    sights.push({ by, where, mayBeEmpty, tenants: shown.map((row) => String(row['tenant'])) })

  async function writeOther(tenant: string, other: string, client: number, at: Client): Promise<void> {
    const answer = await at.transact(about(tenant, client), [{ domain: 'left', text: addRow, values: [other] }]).then(
      () => 'done',
      (error: unknown) => answerOf(error),
    )
    attempts.push({
      what: `a row of ${other} by ${tenant}`,
      answer,
      refusals: ['statement_failed', 'placement_denied'],
    })
  }

  /** As the application's role, which a leaked password gives. */
  async function raw(tenant: string): Promise<void> {
    const shard = homes.get(tenant) ?? shardOf.left
    const connection = await fleet.connect(shard, 'holdfast_app')
    try {
      const where = `raw session of ${shard}`
      see('nobody', where, (await connection.query(look)).rows, true)
      // Row security hides every row, so that there is nothing to change.
      see('nobody', where, (await connection.query(touch)).rows, true)
      const answer = await answerTo(connection, [{ text: addRow, values: [tenant] }])
      attempts.push({ what: `a raw write on ${shard}`, answer, refusals: [sqlState.notOpened] })
    } finally {
      connection.release()
    }
  }

  /** As a gateway whose directory is of the past, up to the stamp. */
  async function stale(tenant: string): Promise<void> {
    const name = (homes.get(tenant) ?? shardOf.left) as ShardName
    const epoch = fleet.supervisor.topology.document.shards[name]?.epoch ?? (0 as Epoch)
    const connection = await fleet.connect(name, 'holdfast_gateway')
    try {
      const transactionId = newTimeOrderedUuid() as TransactionId
      const placements = new Map([['left', 0]])
      const answer = await answerTo(connection, [
        store.begin('read committed'),
        store.open({
          tenant,
          transactionId,
          epoch,
          placements,
          key: null,
          requestHash: null,
          lockWithinMs: 1_000,
          runWithinMs: 5_000,
          isHome: true,
        }),
        { text: touch },
        ...store.concludeCaller,
        store.stamp({
          transactionId,
          epoch,
          key: null,
          business: { tenant, action: 'torture.stale', subject: 'canary', actor: 'stale' },
          placements,
          participants: [],
          after: hlcZero,
          value: null,
          events: '[]',
        }),
        store.rollback,
      ])
      // A shard that was fenced meanwhile refuses the opening already.
      const refusals = [sqlState.placementStale, sqlState.shardFenced]
      attempts.push({ what: `a stamp by a placement of ${tenant} of the past`, answer, refusals })
    } finally {
      connection.release()
    }
  }

  return {
    setUp: async (at) => {
      for (const tenant of tenants) {
        await at.transact(about(tenant, -1), [
          { domain: 'left', text: 'delete from left_canaries' },
          { domain: 'left', text: 'insert into left_canaries values ($1, 0)', values: [tenant] },
        ])
      }
    },
    operate: async (client, at) => {
      const below = sources.of(`client ${client}`)
      const tenant = tenants[below(tenants.length)] ?? ''
      const other = tenants[(tenants.indexOf(tenant) + 1) % tenants.length] ?? ''
      try {
        const what = below(8)
        if (what < 3) {
          const { rows: shown } = await at.transact(about(tenant, client), [{ domain: 'left', text: touch }])
          see(tenant, 'its home', shown.flat())
        } else if (what < 5) {
          const level = (['session', 'causal', 'primary'] as const)[below(3)] ?? 'session'
          const { rows: shown, nodes } = await at.read({ tenant, level }, [{ domain: 'left', text: look }])
          // A session of its own may be shown the time before the row.
          see(tenant, nodes.join(' '), shown.flat(), true)
        } else if (what === 5) await writeOther(tenant, other, client, at)
        else if (what === 6) await raw(tenant)
        else await stale(tenant)
        return 'ok'
      } catch (error) {
        return outcomeOf(error)
      }
    },
    end: async () => {
      const shards = [...new Set(homes.values())]
      const found = await Promise.all(
        shards.map(async (shard) => ({ shard, rows: await fleet.ask<{ tenant: string }>(shard, look) })),
      )
      const places = [...homes].map(([tenant, home]) => ({
        tenant,
        home,
        shards: found.filter((one) => one.rows.some((row) => row.tenant === tenant)).map(({ shard }) => shard),
      }))
      return { sights, attempts, places }
    },
  }
}

/** The first refusal of a flight, or `done`. */
async function answerTo(connection: Connection, statements: readonly Statement[]): Promise<string> {
  const outcomes = await connection.flight(statements, 10_000)
  const refused = outcomes.find((one) => !one.ok)
  return refused === undefined || refused.ok ? 'done' : answerOf(refused.error)
}

function answerOf(error: unknown): string {
  // A server that shuts down, or ended this backend; a row that another held for too long, in front of what was to be refused.
  if (error instanceof ServerError) {
    const { sqlState: state } = error
    return state.startsWith('57P') || state === sqlState.lockNotAvailable ? 'lost' : state
  }
  const cause = error instanceof NotAcknowledged ? error.cause : error
  if (!isHoldfastError(cause) || cause.retry !== 'never') return 'lost'
  return cause.code
}
