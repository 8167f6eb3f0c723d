import type { ServerSettings } from '../../fleet/server-settings.ts'
import { poolLimitsDefault } from '../../postgres/pools.ts'
import { waitingMax } from '../../postgres/given-up.ts'
import type { Finding } from './doctor.ts'

/** What `doctor` says of how servers are set. Those that others administer are set by others. */

interface Advice {
  readonly setting: string
  readonly shouldBe: string
  readonly why: string
  readonly isMet: (server: ServerSettings) => boolean
}

/** -1 waits for ever, and 0 ends what conflicts at once: some reads lose by it, and nobody waits. */
const withinMs = (delayMs: number, max: number) => delayMs >= 0 && delayMs <= max
/** 0 is none. */
const bounded = (limitMs: number, max: number) => limitMs > 0 && limitMs <= max

/** The reasons are those of docs/protocols/visibility.md. */
const advices: readonly Advice[] = [
  {
    setting: 'hot_standby_feedback',
    shouldBe: 'on',
    why: 'else vacuum on the primary ends what reads on a follower, and slots there lose the rows that they decode with',
    isMet: ({ isFollowerFedBack }) => isFollowerFedBack,
  },
  {
    setting: 'max_standby_streaming_delay',
    shouldBe: '1s or less',
    why: 'else one long query makes the follower late for everybody',
    isMet: ({ standbyStreamingDelayMs }) => withinMs(standbyStreamingDelayMs, 1_000),
  },
  {
    setting: 'max_standby_archive_delay',
    shouldBe: '1s or less',
    why: 'else one long query makes the follower late for everybody',
    isMet: ({ standbyArchiveDelayMs }) => withinMs(standbyArchiveDelayMs, 1_000),
  },
  {
    setting: 'idle_in_transaction_session_timeout',
    shouldBe: '60s or less',
    why: 'else a forgotten transaction keeps its rows, and the closed timestamp of its shard, for as long as it likes',
    isMet: ({ idleInTransactionMs }) => bounded(idleInTransactionMs, 60_000),
  },
  {
    setting: 'client_connection_check_interval',
    shouldBe: '5s or less',
    why: 'else a statement goes on for a gateway that is gone, and keeps its snapshot',
    isMet: ({ connectionCheckMs }) => bounded(connectionCheckMs, 5_000),
  },
]

/** One a setting, with every server that has it otherwise: whichever follows today may be the primary tomorrow. */
export function settingFindings(servers: readonly ServerSettings[]): Finding[] {
  return advices.flatMap(({ setting, shouldBe, why, isMet }): Finding[] => {
    const otherwise = servers.filter((server) => !isMet(server)).map(({ node }) => node)
    if (otherwise.length === 0) return []
    return [
      {
        what: 'settings',
        status: 'warning',
        detail: `set ${setting} to ${shouldBe} at ${otherwise.join(', ')}: ${why}`,
      },
    ]
  })
}

/** Keeper of the clock, resolver, outbox and archiver, each elected or waiting for it, and who looks for what was given up. */
const sessionsBesidePools = 5
const connectionsOfGateway =
  poolLimitsDefault.transactionConnectionsMax +
  poolLimitsDefault.serviceConnectionsMax +
  waitingMax +
  sessionsBesidePools
/** The supervisor's looks, the redo stream, and a command or two. */
const connectionsBeside = 8

/** Whether a server lets in what the gateways take of it at most, each of every one. */
export function connectionFindings(servers: readonly ServerSettings[], gateways: number): Finding[] {
  const needed = gateways * connectionsOfGateway + connectionsBeside
  return servers
    .filter(({ connectionsMax, connectionsReserved }) => connectionsMax - connectionsReserved < needed)
    .map(({ node, connectionsMax, connectionsReserved }) => ({
      what: 'connections',
      status: 'warning',
      detail:
        `${gateways} gateways take up to ${needed} connections of ${node}, which has ${connectionsMax - connectionsReserved} for them: ` +
        `set max_connections to ${needed + connectionsReserved} or more, on the followers of a shard first`,
    }))
}
