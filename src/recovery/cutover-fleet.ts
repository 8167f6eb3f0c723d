import { HoldfastError } from '../base/errors.ts'
import type { HistoryId, NodeId, ShardName } from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { FencedShard } from './cutover-fence.ts'
import type { ShardStanding } from './cutover-plan.ts'
import { fenceEpoch } from './cutover-plan.ts'
import type { EnvironmentServer } from './restore-shard.ts'
import * as store from './restore-store.ts'

/** One row, whose commit waits for followers, while others wait their turn. */
const reopenWithinMs = 20_000

/** What a cutover asks of the fleet whose shards it replaces. */
export interface CutoverFleet {
  standing(shard: ShardName): FleetStanding
  /** Tells everybody that the shard takes traffic where it is, at this epoch. Its data says so already. */
  reopened(shard: ShardName, epoch: ShardStanding['epoch']): Promise<void>
  /**
   * Throws `check_failed` when taking a shard in would bring it migrations of the application that these places never had; of a
   * shard that is gone, what the environment has.
   */
  requireRolledOut(
    places: readonly { readonly shard: ShardName; readonly isAlive: boolean; readonly target: ConnectionTarget }[],
  ): Promise<void>
  /**
   * Stops the shard's old servers for good and takes this one in as its primary, under the fleet's own settings, with the
   * shard still closed. Its data directory stays where it is.
   */
  adopt(adoption: Adoption): Promise<void>
  /** Builds the followers, waits until commits wait for them, and opens the shard behind a barrier. */
  open(shard: ShardName, epoch: ShardStanding['epoch']): Promise<void>
}

/** A shard as the fleet has it now. */
export interface FleetStanding extends ShardStanding {
  readonly historyId: HistoryId
  readonly primary: ConnectionTarget
  /** Its next history is decided, and only to be opened. */
  readonly isPromoting: boolean
  /** Beside the primary: what was acknowledged is on them as well. */
  readonly followersRunning: readonly NodeId[]
}

export interface Adoption {
  readonly shard: ShardName
  readonly epoch: ShardStanding['epoch']
  readonly historyId: HistoryId
  readonly server: EnvironmentServer
}

/**
 * How a shard stands when its cutover begins. It is gone when none of its nodes runs, and then what its archive lacks is lost, which
 * a person has to accept by word: else throws `check_failed`. Where followers run, that is on them, and they are not replaced: throws
 * `node_unavailable`. So it does while the shard is promoted: what goes on by itself (V6) would open it in the middle.
 */
export function standingOf(fleet: CutoverFleet, name: ShardName, acceptLoss: boolean): ShardStanding {
  const { shard, epoch, isAlive, isPromoting, followersRunning } = fleet.standing(name)
  const isGone = !isAlive && followersRunning.length === 0
  if (isGone && !acceptLoss) {
    throw new HoldfastError('check_failed', `no node of ${shard} runs: what its archive does not have would be lost`, {
      hint: 'bring one of them back, or accept the loss',
      detail: { shard },
    })
  }
  if (isPromoting && !isGone) {
    throw new HoldfastError('node_unavailable', `${shard} is being promoted`, {
      hint: `that goes on by itself${isAlive ? '' : ' once its primary is back'}; run the cutover once the shard is open`,
      detail: { shard },
    })
  }
  if (!isAlive && !isGone) {
    throw new HoldfastError('node_unavailable', `the primary of ${shard} is down, and its followers are not`, {
      hint: `bring it back, or fail over first: holdfast failover ${shard}`,
      detail: { shard, followers: followersRunning },
    })
  }
  return { shard, epoch, isAlive }
}

/**
 * The same of every shard. One that was fenced before the cutover was broken off stands as it did then; one that was gone may have
 * come back since, and the other way round; and one that was promoted since is fenced anew.
 */
export function standingsOf(
  fleet: CutoverFleet,
  shards: readonly ShardName[],
  { acceptLoss, fencing }: { readonly acceptLoss: boolean; readonly fencing: readonly ShardStanding[] | undefined },
): ShardStanding[] {
  return shards.map((name) => {
    const now = standingOf(fleet, name, acceptLoss)
    const before = fencing?.find(({ shard }) => shard === name)
    const isAsFenced = now.isAlive && before?.isAlive === true && before.epoch === now.epoch
    return isAsFenced ? before : now
  })
}

export function toFenced(fleet: CutoverFleet, standing: ShardStanding): FencedShard {
  const { primary } = fleet.standing(standing.shard)
  return { shard: standing.shard, epoch: fenceEpoch(standing), target: primary }
}

export async function reopen(fleet: CutoverFleet, { shard, epoch, target }: FencedShard): Promise<void> {
  // A promotion has taken it further behind the fence, and opens it itself, perhaps only when it goes on (V6).
  if (fleet.standing(shard).epoch > epoch) return
  const isOpen = await withConnection(target, (admin) => store.reopenShard(admin, epoch), undefined, reopenWithinMs)
  // One that was not fenced yet goes on at the epoch that everybody knows.
  if (isOpen) await fleet.reopened(shard, epoch)
}
