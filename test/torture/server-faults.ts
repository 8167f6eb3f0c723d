import { eventually } from '../support/eventually.ts'
import type { Fault, Scene } from './fault.ts'
import { followersOf, keepReaching, nothing, pickShard, saidOf } from './fault.ts'
import { tenant } from './stand.ts'

/** What happens to servers and to the links between regions. */
export function serverFaults(): readonly Fault[] {
  return [
    killed('kill primary', (scene) => scene.stand.fleet.primary(pickShard(scene)).id),
    killed('kill follower', pickFollower),
    frozen('stop primary', (scene) => scene.stand.fleet.primary(pickShard(scene)).id),
    frozen('stop follower', pickFollower),
    heldBack(),
    lagging(),
    { name: 'fail over', inject: (scene) => promoted(scene, pickShard(scene)), heal: nothing },
    promotedPastLate(),
    linkCut(),
  ]
}

function pickFollower(scene: Scene): string {
  const followers = followersOf(scene, pickShard(scene))
  return followers[scene.below(followers.length)] ?? ''
}

function killed(name: string, pick: (scene: Scene) => string): Fault {
  let node = ''
  return {
    name,
    inject: async (scene) => {
      const { fleet, gateway } = scene.stand
      node = pick(scene)
      await fleet.faults(gateway).killNode(node)
      return (await saidOf(fleet.askNode(node, 'select 1'))) === 'error'
    },
    heal: ({ stand: { fleet, gateway } }) => fleet.faults(gateway).restartNode(node),
  }
}

/** SIGSTOP for the server and all its processes: connections stay, and nobody answers. */
function frozen(name: string, pick: (scene: Scene) => string): Fault {
  let node = ''
  return {
    name,
    inject: async (scene) => {
      const { fleet } = scene.stand
      node = pick(scene)
      await fleet.supervisor.servers.server(node).pause()
      return (await saidOf(fleet.askNode(node, 'select 1'))) === 'nothing'
    },
    heal: ({ stand: { fleet } }) => fleet.supervisor.servers.server(node).resume(),
  }
}

function heldBack(): Fault & { readonly node: () => string; readonly shard: () => string } {
  let node = ''
  return {
    name: 'hold follower back',
    node: () => node,
    shard: () => node.slice(0, node.lastIndexOf('.')),
    inject: async (scene) => {
      const { fleet, gateway } = scene.stand
      node = pickFollower(scene)
      await fleet.faults(gateway).holdBack(node)
      const [row] = await fleet.askNode<{ paused: boolean }>(node, 'select pg_is_wal_replay_paused() as paused')
      return row?.paused === true
    },
    heal: ({ stand: { fleet, gateway } }) => fleet.faults(gateway).release(node),
  }
}

async function promoted({ stand: { fleet } }: Scene, shard: string): Promise<boolean> {
  const before = fleet.primary(shard).id
  await fleet.failover(shard)
  return fleet.primary(shard).id !== before
}

const lagMs = 400

/** It replays each commit a while after it was made, and stays behind for as long as there are any. */
function lagging(): Fault {
  let node = ''
  const setLag = async ({ stand: { fleet } }: Scene, ms: number) => {
    await fleet.askNode(node, `alter system set recovery_min_apply_delay = '${ms} ms'`)
    await fleet.askNode(node, 'select pg_reload_conf()')
  }
  return {
    name: 'let follower lag',
    inject: async (scene) => {
      node = pickFollower(scene)
      await setLag(scene, lagMs)
      // Behind what it has received: it waits before the commit that comes next.
      return eventually(async () => {
        const [row] = await scene.stand.fleet.askNode<{ late: boolean }>(
          node,
          'select pg_last_wal_replay_lsn() < pg_last_wal_receive_lsn() as late',
        )
        return row?.late === true
      }).then(
        () => true,
        () => false,
      )
    },
    heal: (scene) => setLag(scene, 0),
  }
}

/** A follower that does not replay knows nothing of the history that a promotion has opened. */
function promotedPastLate(): Fault {
  const late = heldBack()
  return {
    name: 'fail over past a late follower',
    inject: async (scene) => {
      const isLate = await late.inject(scene)
      const shard = late.shard()
      return (await promoted(scene, shard)) && isLate
    },
    // The one that was promoted replays what it has.
    heal: async (scene) => {
      if (followersOf(scene, late.shard()).includes(late.node())) await late.heal(scene)
    },
  }
}

function linkCut(): Fault {
  const cut = ['eu-west', 'us-east'] as const
  const directions = ['both', 'to', 'from'] as const
  const readFar = ({ stand: { gateway } }: Scene) =>
    gateway.read({ tenant, level: 'primary' }, (reader) => reader.query('right', 'select 1'))
  return {
    name: 'cut link',
    inject: async (scene) => {
      const { fleet, gateway } = scene.stand
      // A read of the far primary passes beforehand, however slow, and says nothing now; an error would say something else.
      await eventually(() =>
        readFar(scene).then(
          () => true,
          () => false,
        ),
      )
      await fleet.faults(gateway).cutLink(...cut, directions[scene.below(3)] ?? 'both')
      return (await saidOf(readFar(scene))) === 'nothing'
    },
    heal: ({ stand: { fleet, gateway } }) => fleet.faults(gateway).healLink(...cut),
  }
}

/** What happens to backends, and to commits that wait for followers. */
export function backendFaults(): readonly Fault[] {
  return [
    {
      name: 'terminate backends',
      inject: async (scene) => {
        const shard = pickShard(scene)
        return (await keepReaching(() => signalled(scene, shard, 'terminate', `state <> 'idle'`))) > 0
      },
      heal: nothing,
    },
    waitsEnded('cancel waits', 'cancel'),
    waitsEnded('terminate waits', 'terminate'),
    primaryLost('lose primary', false),
    primaryLost('lose cancelled waits', true),
  ]
}

const waiting = `wait_event = 'SyncRep'`
const ofGateway = `application_name like 'gateway-%'`
/** A commit, a vote or a settlement. Barriers wait as well, and nothing is lost with them. */
const ofTransaction = `${ofGateway} and query ~ '^(commit|prepare transaction|rollback prepared)'`

/** Reaches all of `which`, and tells how many of them were `counted`. */
async function signalled(
  scene: Scene,
  shard: string,
  how: 'cancel' | 'terminate',
  which: string,
  counted = which,
): Promise<number> {
  const rows = await scene.stand.fleet.ask<{ reached: boolean }>(
    shard,
    `select pg_${how}_backend(pid) and ${counted} as reached from pg_stat_activity where ${ofGateway} and ${which}`,
  )
  return rows.filter(({ reached }) => reached).length
}

/** Followers are frozen, so that commits wait for them, and the waits are ended from outside (HZ-S1). */
function waitsEnded(name: string, how: 'cancel' | 'terminate'): Fault {
  return {
    name,
    inject: async (scene) => {
      const shard = pickShard(scene)
      return (
        (await whileFrozen(scene, shard, () =>
          keepReaching(() => signalled(scene, shard, how, waiting, ofTransaction)),
        )) > 0
      )
    },
    heal: nothing,
  }
}

/**
 * The primary is lost when no follower receives from it any more, and one of them takes over: what nobody acknowledged is
 * gone. With `cancel` the waits are ended first, so that all of it was visible there (HZ-S1, HZ-X1).
 */
function primaryLost(name: string, cancel: boolean): Fault {
  return {
    name,
    inject: async (scene) => {
      const { fleet, gateway } = scene.stand
      const shard = pickShard(scene)
      // Nobody fills a place that an earlier round has left once the primary is gone.
      await fleet.whole(shard)
      const before = fleet.primary(shard).id
      // Not frozen: what was sent to a frozen one is there when it goes on.
      for (const id of followersOf(scene, shard)) await fleet.supervisor.shardServers.detach(fleet.node(id))
      const seen = await keepReaching(() =>
        cancel ? signalled(scene, shard, 'cancel', waiting, ofTransaction) : waitingAlone(scene, shard),
      )
      await fleet.faults(gateway).killNode(before)
      const isOther = () => fleet.primary(shard).id !== before
      // It is refused while followers are too busy to answer.
      await eventually(() => fleet.failover(shard).then(isOther, isOther), 120_000)
      return seen > 0 && isOther()
    },
    heal: nothing,
  }
}

/** How many transactions wait at their end on a primary that no follower receives from. */
async function waitingAlone(scene: Scene, shard: string): Promise<number> {
  const [row] = await scene.stand.fleet.ask<{ count: number }>(
    shard,
    `select count(*)::int as count from pg_stat_activity
     where ${waiting} and ${ofTransaction} and not exists (select from pg_stat_replication where application_name not like 'archive-%')`,
  )
  return row?.count ?? 0
}

async function whileFrozen(scene: Scene, shard: string, run: () => Promise<number>): Promise<number> {
  const { servers } = scene.stand.fleet.supervisor
  const followers = followersOf(scene, shard).map((id) => servers.server(id))
  try {
    for (const follower of followers) await follower.pause()
    return await run()
  } finally {
    for (const follower of followers) await follower.resume()
  }
}
