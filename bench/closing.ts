import { performance } from 'node:perf_hooks'
import type { Fleet } from 'holdfast'
import type pg from 'pg'
import { atMost, type Figure, median, percentile } from './figure.ts'
import { abroad, home, roundTripMs, type Stand, tenant } from './stand.ts'
import { commitAtHome, commitOverBoth, pause, timed } from './work.ts'

/** How far the closed timestamp trails the wall clock of its own server, sampled while the shard works. */

const windowMs = 8_000
const sampleMs = 10
const writers = 4
const globalEveryMs = 100

export async function closingFigures({ fleet, connect }: Stand, progress: (text: string) => void): Promise<Figure[]> {
  const [near, far] = [await connect(home), await connect(abroad)]
  const commitMs: number[] = []
  for (let n = 0; n < 20; n++) commitMs.push(await timed(() => commitAtHome(fleet, tenant, 'account-0')))

  progress('closed timestamp under local traffic')
  const local = await whileWorking(
    () => lagsOf(near),
    (isOver) => keepWriting(fleet, isOver),
  )
  progress('closed timestamp with 10 global commits a second')
  const global = await whileWorking(
    async () => (await Promise.all([lagsOf(near), lagsOf(far)])).flat(),
    (isOver) => keepCommitting(fleet, isOver),
  )
  const limit = Math.round(roundTripMs + median(commitMs) + 50)
  return [
    atMost('closed timestamp lag p99', percentile(local, 0.99), 'ms', 50),
    atMost('closed timestamp lag p99 with 10 global commits a second', percentile(global, 0.99), 'ms', limit),
  ]
}

async function whileWorking(
  sample: () => Promise<number[]>,
  work: (isOver: () => boolean) => Promise<void>,
): Promise<number[]> {
  let over = false
  const working = work(() => over)
  await pause(500)
  try {
    return await sample()
  } finally {
    over = true
    await working
  }
}

async function lagsOf(primary: pg.Client): Promise<number[]> {
  const lags: number[] = []
  const started = performance.now()
  while (performance.now() - started < windowMs) {
    const { rows } = await primary.query<{ lag_ms: string }>({
      name: 'closed-lag',
      text: 'select (holdfast.wall_hlc() >> 16) - (c.closed_timestamp >> 16) as lag_ms from holdfast.closed c',
    })
    lags.push(Number(rows[0]?.lag_ms))
    await pause(sampleMs)
  }
  return lags
}

async function keepWriting(fleet: Fleet, isOver: () => boolean): Promise<void> {
  const write = async (worker: number) => {
    while (!isOver()) await commitAtHome(fleet, tenant, `account-${worker}`)
  }
  await Promise.all(Array.from({ length: writers }, (_, worker) => write(worker)))
}

async function keepCommitting(fleet: Fleet, isOver: () => boolean): Promise<void> {
  const underway: Promise<void>[] = []
  while (!isOver()) {
    underway.push(commitOverBoth(fleet))
    await pause(globalEveryMs)
  }
  await Promise.all(underway)
}
