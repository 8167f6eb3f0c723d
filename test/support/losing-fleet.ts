import { readdir, rm } from 'node:fs/promises'
import { isDeepStrictEqual } from 'node:util'
import { expect } from 'vitest'
import type { Clock } from '../../src/base/clock.ts'
import { systemClock } from '../../src/base/clock.ts'
import { deferred } from '../../src/base/deferred.ts'
import type { NodeId } from '../../src/directory/topology.ts'
import { restartNode } from '../../src/fleet/node-restart.ts'
import { slotName } from '../../src/fleet/node-settings.ts'
import { nodeOf } from '../../src/fleet/shard-servers.ts'
import { eventually } from './eventually.ts'
import type { ShardFleetStart } from './shard-fleet.ts'
import { payroll, ShardFleet } from './shard-fleet.ts'

/** A fleet of one shard that loses followers. */

export const [first, second] = [`${payroll}.2` as NodeId, `${payroll}.3` as NodeId]
export const numbered = (...numbers: number[]) => numbers.map((number) => `${payroll}.${number}`)

/** How often the supervisor looks at the followers. */
const lookEveryMs = 5_000

/** Its pauses between looks and between attempts, without their length. What it waits for has the time that it has. */
const pausesMs: Readonly<Record<number, number>> = { [lookEveryMs]: 250, 1_000: 50, 10_000: 1_000 }
const brisk: Clock = {
  ...systemClock,
  sleep: (ms, until) => systemClock.sleep(pausesMs[ms] ?? ms, until),
}

/** Resolves when the supervisor has looked at the followers. */
let firstLook = deferred<void>()

/** One on which it does not look a second time. */
export const still: Clock = {
  ...systemClock,
  sleep: (ms, until) => {
    if (ms !== lookEveryMs) return brisk.sleep(ms, until)
    firstLook.resolve()
    return new Promise((_resolve, reject) => until?.addEventListener('abort', () => reject(until.reason as Error)))
  },
}

export class LosingFleet extends ShardFleet {
  alarms: string[] = []
  rebuilt: string[] = []
  restarted: string[] = []

  constructor() {
    super(['eu-central', 'eu-central'])
  }

  override async start(options: Omit<ShardFleetStart, 'progress'> = {}): Promise<void> {
    const { clock = brisk } = options
    firstLook = deferred()
    const progress = ({ step, detail = '' }: { step: string; detail?: string }) => {
      if (step === 'rebuild') this.rebuilt.push(detail)
      if (step === 'restart') this.restarted.push(detail)
      if (step === 'alarm') this.alarms.push(detail)
    }
    await super.start({ ...options, clock, progress })
    // A late one would retire what the test has lost by then, and meet the step that the test breaks off.
    if (clock.sleep === still.sleep) await firstLook.promise
  }

  override async end(): Promise<void> {
    await super.end()
    this.alarms = []
    this.rebuilt = []
    this.restarted = []
  }

  directory(id: NodeId): string {
    return this.supervisor.servers.dataDirOf(nodeOf(this.shard(), id).folder)
  }

  /** Every place filled, nothing left of who had it before, and commits that wait for who is there. */
  async whole(...numbers: number[]): Promise<void> {
    const isWhole = () => this.shard().state === 'open' && (this.shard().retired ?? []).length === 0
    await eventually(() => isWhole() && isDeepStrictEqual(this.ids(), numbered(...numbers)), 60_000)
    const followers = this.shard().nodes.filter(({ id }) => id !== this.shard().primary)
    await eventually(async () => (await readdir(this.supervisor.home.serversDir)).length === numbers.length)
    const slots = await this.ask<{ slot: string }>(
      'select slot_name::text as slot from pg_replication_slots order by 1',
    )
    expect(slots.map(({ slot }) => slot)).toEqual(followers.map(({ id }) => slotName(id)).toSorted())
    const wanted = this.supervisor.shardServers.synchronousNames(payroll, this.shard())
    await eventually(async () => {
      const [row] = await this.ask<{ names: string }>(`select current_setting('synchronous_standby_names') as names`)
      return row?.names === wanted
    })
    await this.supervisor.shardServers.barrier(nodeOf(this.shard(), this.shard().primary), 30_000)
  }

  /** As when its disk is lost, and somebody starts its server again. */
  async loseDirectory(id: NodeId): Promise<void> {
    await this.supervisor.servers.kill(id)
    await rm(this.directory(id), { recursive: true })
    expect(
      await this.supervisor.lostFollowers.start(nodeOf(this.shard(), id), () => restartNode(this.supervisor, id)),
    ).toBe(false)
  }

  /** A follower that is away while its primary writes more than it may keep. */
  async loseSlot(id: NodeId): Promise<void> {
    await this.supervisor.servers.kill(id)
    await this.ask('alter system set max_slot_wal_keep_size = 1')
    await this.ask('alter system set wal_keep_size = 0')
    await this.ask('select pg_reload_conf()')
    await eventually(async () => {
      await this.ask(`select pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()`)
      await this.ask('checkpoint')
      const [slot] = await this.ask<{ status: string }>(
        `select wal_status as status from pg_replication_slots where slot_name = '${slotName(id)}'`,
      )
      return slot?.status === 'lost'
    })
    await this.ask('alter system reset max_slot_wal_keep_size')
    await this.ask('alter system reset wal_keep_size')
    await this.ask('select pg_reload_conf()')
    await eventually(async () => {
      const [row] = await this.ask<{ kept: string }>(`select current_setting('max_slot_wal_keep_size') as kept`)
      return row?.kept !== '1MB'
    })
    // The checkpointer takes it up in its own time, and would invalidate the slot of the successor: it has listened when it begins one.
    await this.ask('checkpoint')
  }
}
