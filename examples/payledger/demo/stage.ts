import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Fleet } from 'holdfast'
import { openFleet } from 'holdfast'
import type { Faults } from 'holdfast/testing'
import { faultsOf } from 'holdfast/testing'
import { configBelow } from './config.ts'
import type { WebhookReceiver } from './webhooks.ts'
import { receiveWebhooks } from './webhooks.ts'

/**
 * What the day is played on: the fleet of `holdfast.yaml` in a fresh folder, with the distances between its regions, one
 * gateway in each of them, and a receiver for what the outbox sends.
 */
export interface Stage {
  /** Where the payroll managers of the EU tenants work. */
  readonly west: Fleet
  readonly central: Fleet
  readonly east: Fleet
  readonly faults: Faults
  readonly webhooks: WebhookReceiver
  readonly dataDir: string
  /** Everything that was made lies below it. */
  readonly root: string
  /** Stops everything in order and removes every file. Safe to call twice. */
  close(): Promise<void>
}

export async function openStage(progress: (text: string) => void): Promise<Stage> {
  const undo: (() => Promise<void>)[] = []
  let closing: Promise<void> | undefined
  const clear = async () => {
    for (const step of undo.toReversed()) await step()
  }
  const close = () => {
    closing ??= clear()
    return closing
  }
  try {
    const root = await mkdtemp(join(tmpdir(), 'payledger-'))
    undo.push(() => rm(root, { recursive: true, force: true, maxRetries: 5 }))
    // Run by root, the servers belong to another user, who has to pass through.
    await chmod(root, 0o755)
    const webhooks = await receiveWebhooks()
    undo.push(() => webhooks.close())
    const config = { ...(await configBelow(root)), outbox: { webhook: webhooks.url } }
    const open = async (region: string) => {
      const fleet = await openFleet({
        config,
        region,
        wan: true,
        onProgress: ({ step, detail }) => progress(`${step} ${detail ?? ''}`),
      })
      undo.push(() => fleet.close())
      return fleet
    }
    // The first becomes the supervisor, and so stops last; the others attach to it.
    const west = await open('eu-west')
    const [central, east] = [await open('eu-central'), await open('us-east')]
    return { west, central, east, faults: faultsOf(west), webhooks, dataDir: config.dataDir, root, close }
  } catch (error) {
    await close()
    throw error
  }
}
