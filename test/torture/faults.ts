import { systemClock } from '../../src/base/clock.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { TestFleet } from '../support/fleet.ts'
import { shardOf, tenant } from './stand.ts'
import type { Below } from './workload.ts'

/** One fault: what it does, how it is undone, and what shows that it happened. */
export interface Fault {
  readonly name: string
  /** Tells whether it was seen to happen. */
  inject(scene: Scene): Promise<boolean>
  heal(scene: Scene): Promise<void>
}

export interface Scene {
  readonly fleet: TestFleet
  readonly gateway: Gateway
  readonly below: Below
}

const shards = Object.values(shardOf)
const pickShard = ({ below }: Scene) => shards[below(shards.length)] ?? shardOf.left
const nothing = () => Promise.resolve()
const noAnswerMs = 400

/** Ends the backends of gateways that work on one primary; how many it reached. */
async function terminateBackends(scene: Scene): Promise<number> {
  const shard = pickShard(scene)
  const rows = await scene.fleet.ask<{ reached: boolean }>(
    shard,
    `select pg_terminate_backend(pid) as reached from pg_stat_activity
     where application_name like 'gateway-%' and state <> 'idle'`,
  )
  return rows.filter(({ reached }) => reached).length
}

/** Again and again for a while; whether it reached anybody. */
async function keepReaching(run: () => Promise<number>): Promise<boolean> {
  let reached = 0
  for (let attempt = 0; attempt < 20; attempt += 1) {
    reached += await run()
    await systemClock.sleep(50)
  }
  return reached > 0
}

/** What a read over the link says within a while: either direction of it is enough to silence it. */
function sayOfFarRead(gateway: Gateway): Promise<'answer' | 'error' | 'nothing'> {
  const read = gateway
    .read({ tenant, level: 'primary' }, (reader) => reader.query('right', 'select 1'))
    .then(
      () => 'answer' as const,
      () => 'error' as const,
    )
  return Promise.race([read, systemClock.sleep(noAnswerMs).then(() => 'nothing' as const)])
}

function nodeFault(name: string, pick: (scene: Scene) => string): Fault {
  let node = ''
  return {
    name,
    inject: async (scene) => {
      node = pick(scene)
      await scene.fleet.faults(scene.gateway).killNode(node)
      return scene.fleet.askNode(node, 'select 1').then(
        () => false,
        () => true,
      )
    },
    heal: ({ fleet, gateway }) => fleet.faults(gateway).restartNode(node),
  }
}

export function faultsOf(): readonly Fault[] {
  let held = ''
  const cut = ['eu-west', 'us-east'] as const
  return [
    { name: 'none', inject: () => Promise.resolve(true), heal: nothing },
    nodeFault('kill primary', (scene) => scene.fleet.primary(pickShard(scene)).id),
    nodeFault('kill follower', (scene) => {
      const shard = pickShard(scene)
      const followers = scene.fleet.nodesOf(shard).filter((id) => id !== scene.fleet.primary(shard).id)
      return followers[scene.below(followers.length)] ?? ''
    }),
    {
      name: 'hold follower back',
      inject: async (scene) => {
        const shard = pickShard(scene)
        held = scene.fleet.nodesOf(shard).find((id) => id !== scene.fleet.primary(shard).id) ?? ''
        await scene.fleet.faults(scene.gateway).holdBack(held)
        const [row] = await scene.fleet.askNode<{ paused: boolean }>(held, 'select pg_is_wal_replay_paused() as paused')
        return row?.paused === true
      },
      heal: ({ fleet, gateway }) => fleet.faults(gateway).release(held),
    },
    {
      name: 'cut link',
      inject: async ({ fleet, gateway, below }) => {
        const directions = ['both', 'to', 'from'] as const
        if ((await sayOfFarRead(gateway)) !== 'answer') return false
        await fleet.faults(gateway).cutLink(...cut, directions[below(3)] ?? 'both')
        // A read of the far primary passes beforehand and says nothing now; an error would say something else.
        return (await sayOfFarRead(gateway)) === 'nothing'
      },
      heal: ({ fleet, gateway }) => fleet.faults(gateway).healLink(...cut),
    },
    {
      name: 'fail over',
      inject: async (scene) => {
        const shard = pickShard(scene)
        const before = scene.fleet.primary(shard).id
        await scene.fleet.failover(shard)
        return scene.fleet.primary(shard).id !== before
      },
      heal: nothing,
    },
    {
      name: 'terminate backends',
      inject: (scene) => keepReaching(() => terminateBackends(scene)),
      heal: nothing,
    },
  ]
}
