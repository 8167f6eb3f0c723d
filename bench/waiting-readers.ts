import { faultsOf } from 'holdfast/testing'
import { atMost, exactly, type Figure } from './figure.ts'
import { withProcesses } from './processes.ts'
import { orderReader } from './read-waits.ts'
import type { GatheredReport, ReaderTask, SampleReport } from './reader.ts'
import { home, survivingRegion, tenant, withStand } from './stand.ts'
import { commitAtHome, pause } from './work.ts'

/**
 * What a gateway spends on readers who all wait for one follower. It stands beside the only follower of its region, and the
 * primary is in another: none of them goes there before three quarters of a long budget are over.
 */

const readers = 2_000
const waitMs = 40_000
const sampleMs = 5_000
const lagging = 'eu-central'

export function waitingReadersFigures(progress: (text: string) => void): Promise<Figure[]> {
  return withStand(async ({ fleet, config }) => {
    const { shards } = await fleet.status()
    const nodes = shards.find(({ shard }) => shard === home)?.nodes ?? []
    const follower = nodes.find(({ region }) => region === lagging)?.node
    if (follower === undefined) throw new Error(`${home} has no follower in ${lagging}`)
    const task: ReaderTask = { config, region: lagging }
    return withProcesses('./reader.js', [task], async ([reader]) => {
      const text = 'select count(*) from entries where tenant = $1 and id = 1'
      const askedWith = (session: string) =>
        ({ tenant, session, level: 'session', domain: 'ledger', text, waitMs }) as const
      await orderReader(reader, { do: 'read', read: askedWith(await commitAtHome(fleet, tenant, 'account-0')) })
      const faults = faultsOf(fleet)
      await faults.holdBack(follower)
      let sample: SampleReport
      try {
        const read = askedWith(await commitAtHome(fleet, tenant, 'account-0'))
        progress(`${readers} readers wait for ${follower}`)
        await orderReader(reader, { do: 'gather', read, readers })
        await pause(1_000)
        sample = await orderReader<SampleReport>(reader, { do: 'sample', forMs: sampleMs })
      } finally {
        await faults.release(follower)
      }
      const { answered } = await orderReader<GatheredReport>(reader, { do: 'await' })
      if (sample.waiting !== readers) throw new Error(`of ${readers} readers only ${sample.waiting} waited to the end`)
      const count = readers.toLocaleString('en')
      return [
        atMost(`watcher: gateway CPU with ${count} readers waiting on one lagging follower`, sample.cores, 'cores', 1),
        exactly('of those readers, answered once the follower went on', answered / readers, 'of all', 1),
      ]
    })
  }, survivingRegion)
}
