import type { FleetNode } from '../directory/topology.ts'
import { accepted } from '../postgres/statement.ts'
import { present } from '../base/assert.ts'
import type { GatewayParts } from './gateway-parts.ts'

/** What a server of the fleet is set to that others may have set otherwise. Times in milliseconds; -1 and 0 as PostgreSQL has them. */
export interface ServerSettings {
  readonly node: string
  readonly isFollowerFedBack: boolean
  readonly standbyStreamingDelayMs: number
  readonly standbyArchiveDelayMs: number
  readonly idleInTransactionMs: number
  readonly connectionCheckMs: number
  readonly connectionsMax: number
  /** Of those, what gateways cannot have. */
  readonly connectionsReserved: number
}

const answerWithinMs = 2_000

/** Those without a unit as they are, the others in milliseconds. */
const settingsStatement = {
  text: `select json_object_agg(s.name, s.setting)::text as settings from pg_settings s
    where s.name in ('hot_standby_feedback', 'max_standby_streaming_delay', 'max_standby_archive_delay',
      'idle_in_transaction_session_timeout', 'client_connection_check_interval', 'max_connections',
      'superuser_reserved_connections', 'reserved_connections')`,
}

/** Of the servers that answer: the others are told of by the status. */
export async function serverSettings(parts: GatewayParts): Promise<ServerSettings[]> {
  const { shards } = await parts.topology.refresh()
  const nodes = [...shards.values()].flatMap(({ primary, followers }) => [primary, ...followers])
  const asked = await Promise.allSettled(nodes.map((node) => askSettings(parts, node)))
  return asked.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []))
}

async function askSettings({ pools, environment }: GatewayParts, node: FleetNode): Promise<ServerSettings> {
  const [outcome] = await pools.flight(environment.targetOf(node), [settingsStatement], answerWithinMs)
  const [row] = accepted(present(outcome, 'the outcome of one statement')).rows
  const settings = JSON.parse(String(row?.['settings'])) as Readonly<Record<string, string>>
  const number = (name: string) => Number(settings[name] ?? 0)
  return {
    node: node.id,
    isFollowerFedBack: settings['hot_standby_feedback'] === 'on',
    standbyStreamingDelayMs: number('max_standby_streaming_delay'),
    standbyArchiveDelayMs: number('max_standby_archive_delay'),
    idleInTransactionMs: number('idle_in_transaction_session_timeout'),
    connectionCheckMs: number('client_connection_check_interval'),
    connectionsMax: number('max_connections'),
    // The second one came with PostgreSQL 16.
    connectionsReserved: number('superuser_reserved_connections') + number('reserved_connections'),
  }
}
