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
  return rows.length
}

/** Repeats until it reached somebody, for a while. */
async function untilReached(run: () => Promise<number>): Promise<boolean> {
  let reached = 0
  for (let attempt = 0; attempt < 200; attempt += 1) reached += await run()
  return reached > 0
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
        await fleet.faults(gateway).cutLink(...cut, directions[below(3)] ?? 'both')
        // From one side to the other and back: either direction is enough.
        const answered = gateway
          .read({ tenant, level: 'primary' }, (read) => read.query('right', 'select 1'))
          .then(
            () => true,
            () => false,
          )
        return !(await Promise.race([answered, systemClock.sleep(noAnswerMs).then(() => false)]))
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
      inject: (scene) => untilReached(() => terminateBackends(scene)),
      heal: nothing,
    },
  ]
}
