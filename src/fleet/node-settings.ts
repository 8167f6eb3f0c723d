import { requiredServerSettings } from '../archive/archiver.ts'
import type { NodeId, RegionName, ShardName } from '../directory/topology.ts'
import type { Settings } from '../postgres/server/data-directory.ts'
import type { ShardConfig } from './config.ts'

/** What every node of a fleet runs with, whatever its role: a follower may be the primary tomorrow. */
export function nodeSettings(major: number): Settings {
  return {
    ...requiredServerSettings(major),
    max_connections: 200,
    max_prepared_transactions: 200,
    max_wal_size: '256MB',
    min_wal_size: '32MB',
    hot_standby: true,
    // A follower that waits for one long query is late for everybody: it is the query that goes, and is asked again elsewhere.
    max_standby_streaming_delay: '1s',
    max_standby_archive_delay: '1s',
    // A query that nobody waits for any more ends, and with it the snapshot that keeps rows on the primary.
    client_connection_check_interval: '5s',
    wal_receiver_status_interval: '1s',
    wal_receiver_timeout: '10s',
    wal_sender_timeout: '10s',
    wal_retrieve_retry_interval: '200ms',
    synchronous_commit: 'on',
    // A server that restarts itself after a crash would show commits that no follower has, before anyone asks for a barrier.
    restart_after_crash: false,
    // An idle transaction holds the closed timestamp of the whole shard.
    idle_in_transaction_session_timeout: '60s',
    // A statement or a row of a regulated table never reaches the log.
    log_min_error_statement: 'panic',
    // The message of an error quotes values: what is logged begins above it.
    log_min_messages: 'log',
    log_error_verbosity: 'terse',
    log_checkpoints: false,
    log_autovacuum_min_duration: -1,
  }
}

/**
 * Whom a primary's commit waits for. `survive: region` counts only followers of other regions, so that every
 * acknowledgement has left the region; else any one follower does.
 */
export function synchronousStandbyNames(
  shard: Pick<ShardConfig, 'durability' | 'survive'>,
  primaryRegion: RegionName,
  followers: readonly { readonly id: NodeId; readonly region: RegionName }[],
): string {
  if (shard.durability === 'local') return ''
  const counted = followers.filter((follower) => countsForCommits(shard, primaryRegion, follower))
  // Nobody left to wait for stops the writes; an empty list would quietly stop the waiting instead.
  if (counted.length === 0) return 'ANY 1 ("no-legal-follower")'
  return `ANY 1 (${counted.map(({ id }) => `"${id}"`).join(', ')})`
}

/** Whether a follower's acknowledgement counts towards a commit. */
export function countsForCommits(
  { durability, survive }: Pick<ShardConfig, 'durability' | 'survive'>,
  primaryRegion: RegionName,
  { region }: { readonly region: RegionName },
): boolean {
  return durability === 'quorum' && (survive !== 'region' || region !== primaryRegion)
}

/** The name of a node's physical replication slot at its primary. */
export function slotName(node: NodeId): string {
  return `hf_${node.replaceAll(/[^a-z0-9]/g, '_')}`
}

/** A regular expression of PostgreSQL: the slots of a shard's nodes, whatever their numbers. */
export function slotPattern(shard: ShardName): string {
  return `^${slotName(`${shard}.` as NodeId)}[0-9]+$`
}
