import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { formatWallMs } from '../../base/clock.ts'
import type { Supervisor } from '../supervisor.ts'

/**
 * Refused orchestration, one JSON line each, durable before the caller is told: a refusal may happen just when the shard
 * that it is about cannot take a write.
 */
export async function journalRefusal(
  supervisor: Supervisor,
  refusal: Readonly<Record<string, unknown>>,
): Promise<void> {
  const file = await open(join(supervisor.home.journalDir, 'refusals.jsonl'), 'a', 0o600)
  try {
    await file.write(`${JSON.stringify({ at: formatWallMs(supervisor.clock.wallMs()), ...refusal })}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
}
