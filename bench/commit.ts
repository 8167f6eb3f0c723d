import { faultsOf } from 'holdfast/testing'
import type pg from 'pg'
import { closingFigures } from './closing.ts'
import { atMost, exactly, type Figure, median, round, told } from './figure.ts'
import { growingFleetFigures, memoryFigure } from './gateways.ts'
import { growthFigure } from './growth.ts'
import { inDoubtFigure } from './in-doubt.ts'
import { localWrites } from './local-writes.ts'
import {
  abroad,
  home,
  region,
  roundTripMs,
  type Stand,
  survivingRegion,
  survivorMs,
  tenant,
  withStand,
} from './stand.ts'
import { commitOverBoth, insertEntry, insertHold, roundTripOf, timed } from './work.ts'

/** What a commit costs, every figure of it; here the one over two shards, beside textbook two-phase commit. */

const globalCommits = 40

export async function benchCommit(progress: (text: string) => void): Promise<Figure[]> {
  const beside = await withStand(async (stand) => [
    ...(await localWrites(stand, progress, '')),
    ...(await globalCommitFigures(stand, progress)),
    ...(await closingFigures(stand, progress)),
    await inDoubtFigure(stand, progress),
  ])
  const surviving = await withStand(
    async (stand) => [
      ...(await localWrites(stand, progress, ` with survive: region, ${survivorMs} ms away`)),
      await survivingCommitFigure(stand, progress),
    ],
    survivingRegion,
  )
  return [
    ...beside,
    ...surviving,
    await memoryFigure(progress),
    await growthFigure(progress),
    ...(await growingFleetFigures(progress)),
  ]
}

async function globalCommitFigures(stand: Stand, progress: (text: string) => void): Promise<Figure[]> {
  const { fleet } = stand
  const faults = faultsOf(fleet)
  const commit = () => commitOverBoth(fleet)
  const bare = await twoPhaseCommit(stand)
  // Connections are opened, and statements prepared, before anything is counted.
  for (let n = 0; n < 5; n++) await commit()
  await bare()

  progress(`${globalCommits} global commits`)
  const trips: number[] = []
  const durationsMs: number[] = []
  for (let n = 0; n < globalCommits; n++) {
    await faults.resetLinkCounts()
    durationsMs.push(await timed(commit))
    const counts = await faults.linkCounts()
    const asked = counts.filter(({ kind, application }) => kind === 'client' && application === `gateway-${region}`)
    trips.push(asked.reduce((sum, count) => sum + count.roundTrips, 0))
  }
  const linkMs = await roundTripOf(stand)
  progress('textbook two-phase commit')
  const bareMs: number[] = []
  for (let n = 0; n < globalCommits / 2; n++) bareMs.push(await timed(bare))
  return [
    exactly('global commit round trips', Math.max(...trips), 'round trips', 1),
    atMost(
      `global commit p50 at ${roundTripMs} ms, followers beside their primaries`,
      median(durationsMs),
      'ms',
      round(linkMs + 6),
      median(bareMs),
    ),
    told(`a round trip over the link of ${roundTripMs} ms`, linkMs, 'ms', 'the RTT of the figures of global commits'),
  ]
}

async function survivingCommitFigure(stand: Stand, progress: (text: string) => void): Promise<Figure> {
  const { fleet } = stand
  for (let n = 0; n < 5; n++) await commitOverBoth(fleet)
  progress(`${globalCommits} global commits whose home waits for another region`)
  const durationsMs: number[] = []
  for (let n = 0; n < globalCommits; n++) durationsMs.push(await timed(() => commitOverBoth(fleet)))
  const name = `global commit p50 with survive: region at home, ${survivorMs} ms away`
  const linkMs = await roundTripOf(stand)
  return atMost(name, median(durationsMs), 'ms', round(linkMs + survivorMs + 8))
}

/** Work on both, then the vote of both, then the decision to both; each step in parallel over the shards. */
async function twoPhaseCommit({ connect }: Stand): Promise<() => Promise<void>> {
  const [near, far] = [await connect(home), await connect(abroad)]
  await near.query('set search_path = bare')
  await far.query('create schema bare; create table bare.holds (like public.holds including all)')
  await far.query('set search_path = bare')
  let number = 0
  return async () => {
    const gid = `bench_${number++}`
    const on = (step: (client: pg.Client) => Promise<unknown>) => Promise.all([step(near), step(far)])
    await Promise.all([
      near.query('begin'),
      near.query(insertEntry, [tenant, 'account-0']),
      far.query('begin'),
      far.query(insertHold, [tenant]),
    ])
    await on((client) => client.query(`prepare transaction '${gid}'`))
    await on((client) => client.query(`commit prepared '${gid}'`))
  }
}
