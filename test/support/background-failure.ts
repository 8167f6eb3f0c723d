/** What fails in the background of a gateway is a defect. Raised where nobody handles it, it fails the test. */
export function onBackgroundFailure(error: unknown): never {
  throw error
}
