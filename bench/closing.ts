import { performance } from 'node:perf_hooks'
import type pg from 'pg'
import { atMost, type Figure, median, percentile } from './figure.ts'
import { abroad, home, roundTripMs, type Stand, tenant } from './stand.ts'
import { keepCommitting, keepWriting, whileWorking } from './traffic.ts'
import { commitAtHome, pause, timed } from './work.ts'

/** How far the closed timestamp trails the wall clock of its own server, sampled while the shard works. */

const windowMs = 8_000
const sampleMs = 10

export async function closingFigures({ fleet, connect }: Stand, progress: (text: string) => void): Promise<Figure[]> {
  const [near, far] = [await connect(home), await connect(abroad)]
  const commitMs: number[] = []
  for (let n = 0; n < 20; n++) commitMs.push(await timed(() => commitAtHome(fleet, tenant, 'account-0')))

  progress('closed timestamp under local traffic')
  const local = await whileWorking(
    () => lagsOf(near),
    (isOver) => keepWriting(fleet, tenant, isOver),
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
