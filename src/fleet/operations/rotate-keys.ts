import { present } from '../../base/assert.ts'
import { formatWallMs } from '../../base/clock.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { Progress } from '../../base/progress.ts'
import type { Retirement, TokenKeys } from '../../session/key-rotation.ts'
import { dropKeys, keyStates, promoteKey, publishKey, ringLeaseMs } from '../../session/key-rotation.ts'
import { newSecret, readKeys, retirementOf, writeKeys } from '../keys.ts'
import type { TokenKeyView } from '../operations-api.ts'
import type { Supervisor } from '../supervisor.ts'

/**
 * Has session tokens signed with a new key, in two phases, each of them one durable replacement of the file (S13 to S15).
 * Whatever ends it in between, the fleet goes on with the old key, and the next rotation with the key that was published.
 */

/** Beyond the lease: a timer may be early, and a gateway's lease ends after it. */
const waitMs = ringLeaseMs + 1_000

/** Throws `check_failed` while every id is taken. After any other failure it may be run again. */
export async function rotateKeys(supervisor: Supervisor, progress: Progress): Promise<readonly TokenKeyView[]> {
  const { clock, closing, config } = supervisor
  const retirement = retirementOf(config)
  const { next } = await change(supervisor, (ring) => publish(dropKeys(ring, clock.wallMs(), retirement)))
  const id = present(next, 'a key is published')
  progress({ step: 'published', detail: `for ${waitMs} ms every gateway gets to know the key` })
  // By a clock that nobody sets: an operation that runs again waits again.
  await clock.sleep(waitMs, closing)
  const ring = await change(supervisor, (found) => promoteKey(found, id, clock.wallMs()))
  progress({ step: 'signing', detail: `with key ${id}` })
  return viewsOf(ring, retirement)
}

/** The keys without their secrets. */
export async function listKeys({ home, config }: Supervisor): Promise<readonly TokenKeyView[]> {
  const { tokenKeys } = await readKeys(home.keysDir)
  return viewsOf(tokenKeys, retirementOf(config))
}

function publish(ring: TokenKeys): TokenKeys {
  const published = publishKey(ring, newSecret())
  if (published !== undefined) return published
  throw new HoldfastError('check_failed', 'no key id is left: tokens of every one of them may be alive', {
    hint: 'rotate again once the oldest key is gone; holdfast keys list says when',
  })
}

/** Only the supervisor writes the file, one step at a time. */
function change(supervisor: Supervisor, step: (ring: TokenKeys) => TokenKeys): Promise<TokenKeys> {
  const { keysDir } = supervisor.home
  return supervisor.exclusively(async () => {
    const keys = await readKeys(keysDir)
    const tokenKeys = step(keys.tokenKeys)
    if (tokenKeys !== keys.tokenKeys) await writeKeys(keysDir, { ...keys, tokenKeys })
    return tokenKeys
  })
}

function viewsOf(ring: TokenKeys, retirement: Retirement): TokenKeyView[] {
  return keyStates(ring, retirement).map(({ id, state, goneAtMs }) => ({
    id,
    state,
    goneAt: goneAtMs === null ? null : formatWallMs(goneAtMs),
  }))
}
