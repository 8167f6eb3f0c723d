import { systemClock } from '../../src/base/clock.ts'
import type { Fault, Scene } from './fault.ts'
import { nothing, pickShard, saidOf } from './fault.ts'
import type { Outpost } from './stand.ts'

/** What happens to gateways of processes of their own. */
export function gatewayFaults(): readonly Fault[] {
  let killed: Outpost | undefined
  let frozen: Outpost | undefined
  const pick = ({ stand: { outposts }, below }: Scene) => outposts[below(outposts.length)]
  const health = ({ process }: Outpost) => fetch(new URL('/healthz', process.url))
  return [
    {
      name: 'kill gateway',
      inject: async (scene) => {
        killed = pick(scene)
        if (killed === undefined) return false
        killed.process.kill('SIGKILL')
        return (await killed.process.ended()) === 'SIGKILL' && (await saidOf(health(killed))) === 'error'
      },
      heal: async () => killed?.begin(),
    },
    {
      name: 'stop gateway',
      inject: async (scene) => {
        frozen = pick(scene)
        if (frozen === undefined) return false
        frozen.process.kill('SIGSTOP')
        return (await saidOf(health(frozen))) === 'nothing'
      },
      heal: () => {
        frozen?.process.kill('SIGCONT')
        return nothing()
      },
    },
  ]
}

/** Further than any drift, and than the offset that is tolerated. */
const gatewayJumpMs = 600_000
/** Around the offset that is tolerated: a clock that runs ahead by more is refused until the others have come up to it. */
const serverJumpsMs = [-2_000, -300, 300, 2_000]

/** Clocks that jump, forward and back. */
export function clockFaults(): readonly Fault[] {
  let clockNode = ''
  let genuine = ''
  return [
    {
      name: 'gateway clock jumps',
      inject: ({ stand: { clocks, gateways }, below }) => {
        const at = below(clocks.length)
        const clock = clocks[at]
        if (clock === undefined) return Promise.resolve(false)
        clock.shiftMs = (below(2) === 0 ? 1 : -1) * (1 + below(gatewayJumpMs))
        const shown = gateways[at]?.parts.clock.wallMs() ?? systemClock.wallMs()
        return Promise.resolve(Math.abs(shown - systemClock.wallMs() - clock.shiftMs) < 1_000)
      },
      heal: ({ stand: { clocks } }) => {
        for (const clock of clocks) clock.shiftMs = 0
        return nothing()
      },
    },
    {
      name: 'server clock jumps',
      inject: async (scene) => {
        const { fleet } = scene.stand
        const shard = pickShard(scene)
        clockNode = fleet.primary(shard).id
        const shiftMs = serverJumpsMs[scene.below(serverJumpsMs.length)] ?? 300
        const [row] = await fleet.askNode<{ text: string }>(
          clockNode,
          `select pg_get_functiondef('holdfast.wall_hlc()'::regprocedure) as text`,
        )
        genuine = row?.text ?? ''
        await fleet.askNode(
          clockNode,
          genuine.replace('clock_timestamp()', `(clock_timestamp() + interval '${shiftMs} ms')`),
        )
        const [seen] = await fleet.askNode<{ off: number }>(
          clockNode,
          `select ((holdfast.wall_hlc() >> 16) - extract(epoch from clock_timestamp()) * 1000)::int as off`,
        )
        return Math.abs((seen?.off ?? 0) - shiftMs) < 200
      },
      heal: async ({ stand: { fleet } }) => {
        const shard = clockNode.slice(0, clockNode.lastIndexOf('.'))
        // Of whoever is the primary by now: the function went with the log.
        await fleet.ask(shard, genuine)
      },
    },
  ]
}
